"""`vestal serve` in Python: a TorchServe that is ready inside the `with` and gone after it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from vestal.configuration.config import Configuration
from vestal.configuration.ports import Endpoint, check_free, taken
from vestal.errors import UsageError, VestalError
from vestal.files.locks import FileLock
from vestal.files.storage import check_room
from vestal.mar.sample import Sample, read_sample
from vestal.project import Project, ReadyFile
from vestal.server.api import Api
from vestal.server.draining import Draining, counted
from vestal.server.java import find_java
from vestal.server.launch import Plan, TorchServe, temp_folder
from vestal.server.lock import lock
from vestal.server.logs import Logs
from vestal.server.notices import notices
from vestal.server.publishing import Publishing
from vestal.server.readiness import Readiness, ServerEnded
from vestal.server.spec import Failed, ModelSpec, find_models, none_served

_CALL_SECONDS = 5.0


class Server:
    """One TorchServe with its models, for the time of a `with`.

    `models`: `NAME=ARCHIVE` or `ARCHIVE` in the model store, or nothing for the newest version of
    every model; the first version of a model is its default. `port`: None takes those of
    config.properties, 0 free ones, N takes N, N+1 and N+2. `ready_file`: written beside the
    project's own, when all are ready. `timeout`: seconds until then. `strict`: one archive that
    cannot be read, does not load, or answers its sample wrongly is an error, as all of them are;
    without it the others are served. `on_event` gets each step as a sentence.

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
        strict: bool = False,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self._project = project
        self._models = models
        self._model_store = model_store
        self._port = port
        # The project's own always: by it every command finds the server.
        self._ready_files = [project.ready_file, *([ready_file.absolute()] if ready_file else [])]
        self._publishing = Publishing(project, self._ready_files)
        self._api: Api | None = None
        self._timeout = timeout
        self._strict = strict
        self._on_event = on_event or (lambda _: None)
        self._lock: FileLock | None = None
        self._torchserve: TorchServe | None = None
        self._logs = Logs(project.logs, 0)
        self._endpoints: list[Endpoint] = []
        self._archives: dict[tuple[str, str], Path] = {}

    @property
    def ready(self) -> ReadyFile:
        """What the ready file contains. Raises VestalError outside the `with`."""
        if self._publishing.ready is None:
            raise VestalError("the server is not running: use it inside `with Server(...)`")
        return self._publishing.ready

    def sample(self) -> Sample | None:
        """The packed sample of the first model that is served, if its archive has one."""
        first = self.ready.models[0]
        archive = self._archives.get((str(first["name"]), str(first["version"])))
        return None if archive is None else read_sample(archive)

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

    def drain(self, seconds: float) -> None:
        """Stops being ready, and returns when no request is in work or the time is over.

        New requests are served meanwhile. Raises VestalError when TorchServe dies.
        """
        assert self._api is not None
        self._publishing.withdraw()
        with contextlib.suppress(OSError):  # a full disk is no reason to cut requests off
            self._publishing.phase("stopping")
        self._on_event(
            f"stopping: waiting for the requests in work, at most {seconds:g} s "
            "(Ctrl-C or SIGTERM again stops at once)"
        )
        try:
            unfinished = Draining(self._api, self._check, seconds).wait()
        except (requests.RequestException, OSError, ValueError) as error:
            self._check(1)
            self._on_event(f"unknown whether requests were cut off: {error}")
            return
        if unfinished:
            self._on_event(f"after {seconds:g} s, cut off: {counted(unfinished)}")
        else:
            self._on_event("every request was answered")

    def stop(self) -> None:
        """Ends everything; once is enough."""
        if self._lock is not None:
            self._publishing.withdraw()
            self._publishing.end()
        torchserve, self._torchserve = self._torchserve, None
        if torchserve is not None:
            torchserve.stop()
        api, self._api = self._api, None
        if api is not None:
            api.close()
        folder, self._lock = self._lock, None
        if folder is not None:
            folder.release()

    def _start(self) -> None:
        project = self._project
        configuration = Configuration.load(project)
        for notice in notices(configuration):
            self._on_event(notice)
        endpoints = configuration.endpoints(self._port)
        store = (self._model_store or configuration.model_store).resolve()
        failed: list[Failed] = []
        specs = find_models(self._models, store, None if self._strict else failed)
        self._archives = {(spec.name, spec.version): spec.archive for spec in specs}
        self._refuse_strange_ready_file()
        java = find_java(os.environ)
        if java.passed_over:
            self._on_event(f"{java.passed_over}: {java.executable} is taken")
        self._lock = lock(project)
        check_free(endpoints)
        project.logs.mkdir(exist_ok=True)
        for folder in (project.state, project.logs, temp_folder()):
            check_room(folder)
        for stale in (*self._publishing.files, project.key_file):
            stale.unlink(missing_ok=True)  # of a machine that lost its power
        self._publishing.phase("starting")
        for each in failed:
            self._on_event(f"{each.archive} is not served: {each.error}")
        self._logs = Logs(project.logs, time.time())
        deadline = time.monotonic() + self._timeout
        self._endpoints = endpoints
        self._on_event(f"starting TorchServe on Java {java.version}")
        plan = Plan(
            project, configuration, endpoints, store, self._publishing.files, java.executable
        )
        self._torchserve = TorchServe(plan, self._lock.fileno())
        key_file = project.key_file if configuration.tokens else None
        self._api = Api(endpoints, key_file)
        readiness = Readiness(self._api, self._logs, deadline, self._check, self._on_event)
        failed += readiness.bring_up(specs, strict=self._strict)
        models = self._served(self._api)
        if not models:
            raise none_served(failed)
        inference, management, metrics = (endpoint.url for endpoint in endpoints[:3])
        ready = ReadyFile(
            inference=inference,
            management=management,
            metrics=metrics,
            pid=os.getpid(),
            key_file=str(key_file) if key_file else None,
            models=_in_order(models, specs),
            model_store=str(store),
            failed=[
                {"archive": each.archive, "reason": str(each.error).splitlines()[0]}
                for each in failed
            ],
        )
        self._publishing.publish(ready)
        self._publishing.follow(self._api)

    def _served(self, api: Api) -> list[dict[str, Any]]:
        try:
            return api.served(_CALL_SECONDS)
        except requests.RequestException as error:
            self._check(_CALL_SECONDS)
            raise VestalError(f"TorchServe does not list its models: {error}") from None

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
                raise ServerEnded(taken(endpoint))
        raise ServerEnded("\n".join([f"TorchServe ended ({how})", *self._logs.why_ended()]))

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


def _in_order(models: Sequence[dict[str, Any]], specs: Sequence[ModelSpec]) -> list[dict[str, Any]]:
    """The models as they are served, in the order in which they were named."""
    order = {(spec.name, spec.version): position for position, spec in enumerate(specs)}
    last = len(order)  # registered by somebody else meanwhile
    return sorted(models, key=lambda model: order.get((model["name"], model["version"]), last))
