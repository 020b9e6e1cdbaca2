"""`vestal serve` in Python: a TorchServe that is ready inside the `with` and gone after it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from vestal.errors import UsageError, VestalError
from vestal.project import Project, ReadyFile
from vestal.server.api import Api
from vestal.server.config import Configuration
from vestal.server.java import find_java
from vestal.server.launch import Plan, TorchServe, partial
from vestal.server.lock import lock
from vestal.server.logs import Logs
from vestal.server.notices import notices
from vestal.server.ports import Endpoint, check_free, taken
from vestal.server.readiness import Readiness
from vestal.server.spec import ModelSpec, find_models


class Server:
    """One TorchServe with its models, for the time of a `with`.

    `models`: `NAME=ARCHIVE` or `ARCHIVE` in the model store, or nothing for the newest version of
    every model; the first version of a model is its default. `port`: None takes those of
    config.properties, 0 free ones, N takes N, N+1 and N+2. `ready_file`: written beside the
    project's own, when all are ready. `timeout`: seconds until then.
    `on_event` hears each step as a sentence. `specs`: what is served, once it was found.

    Entering raises UsageError where an argument or a setting cannot be, and VestalError where the
    server does not become ready: no Java, a port in use, another server in this project, a model
    that fails to load or to answer its sample. Whatever happens, no process and no file of the run
    is left but the logs.
    """

    def __init__(
        self,
        project: Project,
        models: Sequence[str | ModelSpec] = (),
        *,
        model_store: Path | None = None,
        port: int | None = None,
        ready_file: Path | None = None,
        timeout: float = 120,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self._project = project
        self._models = models
        self._model_store = model_store
        self._port = port
        # The project's own always: by it every command finds the server.
        self._ready_files = [project.ready_file, *([ready_file.absolute()] if ready_file else [])]
        self._timeout = timeout
        self._on_event = on_event or (lambda _: None)
        self._lock: int | None = None
        self._torchserve: TorchServe | None = None
        self._ready: ReadyFile | None = None
        self._logs = Logs(project.logs, 0)
        self._endpoints: list[Endpoint] = []
        self.specs: list[ModelSpec] = []

    @property
    def ready(self) -> ReadyFile:
        """What the ready file says. Raises VestalError outside the `with`."""
        if self._ready is None:
            raise VestalError("the server is not running: use it inside `with Server(...)`")
        return self._ready

    def __enter__(self) -> Server:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def wait(self) -> None:
        """Blocks while TorchServe runs. Raises VestalError with its log's end when it dies."""
        while True:
            self._check(3600)

    def stop(self) -> None:
        """Ends everything; once is enough."""
        self._ready = None
        torchserve, self._torchserve = self._torchserve, None
        if torchserve is not None:
            torchserve.stop()
        folder, self._lock = self._lock, None
        if folder is not None:
            os.close(folder)

    def _start(self) -> None:
        project = self._project
        configuration = Configuration.load(project)
        for notice in notices(configuration):
            self._on_event(notice)
        endpoints = configuration.endpoints(self._port)
        store = (self._model_store or configuration.model_store).resolve()
        specs = self.specs = find_models(self._models, store)
        self._refuse_strange_ready_file()
        java = find_java(os.environ)
        if java.passed_over:
            self._on_event(f"{java.passed_over}: {java.executable} is taken")
        self._lock = lock(project)
        check_free(endpoints)
        project.logs.mkdir(exist_ok=True)
        for stale in (*self._ready_files, project.key_file):
            stale.unlink(missing_ok=True)  # of a machine that lost its power
        self._logs = Logs(project.logs, time.time())
        deadline = time.monotonic() + self._timeout
        self._endpoints = endpoints
        self._on_event(f"starting TorchServe on Java {java.version}")
        plan = Plan(project, configuration, endpoints, store, self._ready_files, java.executable)
        self._torchserve = TorchServe(plan, self._lock)
        key_file = project.key_file if configuration.tokens else None
        api = Api(endpoints, key_file)
        try:
            Readiness(api, self._logs, deadline, self._check, self._on_event).bring_up(specs)
        finally:
            api.close()
        self._ready = self._write_ready_files(specs, key_file)

    def _write_ready_files(self, specs: Sequence[ModelSpec], key_file: Path | None) -> ReadyFile:
        inference, management, metrics = (endpoint.url for endpoint in self._endpoints[:3])
        ready = ReadyFile(
            inference=inference,
            management=management,
            metrics=metrics,
            pid=os.getpid(),
            key_file=str(key_file) if key_file else None,
            models=_listed(specs),
        )
        for file in self._ready_files:
            partial(file).write_text(ready.to_json(), encoding="utf-8")
            partial(file).replace(file)
        return ready

    def _check(self, seconds: float) -> None:
        """Raises VestalError when TorchServe ends within so many seconds."""
        if self._torchserve is None:
            raise VestalError("the server is not running: use it inside `with Server(...)`")
        how = self._torchserve.ended(seconds)
        if how is None:
            return
        port = self._logs.unbound_port()
        for endpoint in self._endpoints:
            if endpoint.port == port:  # somebody took it after we looked
                raise VestalError(taken(endpoint))
        raise VestalError("\n".join([f"TorchServe ended ({how})", *self._logs.why_ended()]))

    def _refuse_strange_ready_file(self) -> None:
        """A ready file is removed at start and end: the user must not name another file."""
        for file in self._ready_files[1:]:
            try:
                ReadyFile.read(file)
            except FileNotFoundError:
                if not file.parent.is_dir():
                    raise UsageError(
                        f"--ready-file {file}: there is no folder {file.parent}"
                    ) from None
            except (VestalError, OSError):
                raise UsageError(
                    f"--ready-file {file} is there and is not a ready file: name another"
                ) from None


def _listed(specs: Sequence[ModelSpec]) -> list[dict[str, object]]:
    defaults: dict[str, str] = {}
    for spec in specs:
        defaults.setdefault(spec.name, spec.version)
    return [
        {
            "name": spec.name,
            "version": spec.version,
            "default": defaults[spec.name] == spec.version,
        }
        for spec in specs
    ]
