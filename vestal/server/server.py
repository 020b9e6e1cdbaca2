"""`vestal serve` in Python: a TorchServe that runs inside a `with`."""

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
from vestal.configuration.notices import notices
from vestal.configuration.ports import Endpoint, check_free, port_in_use_message
from vestal.errors import UsageError, VestalError
from vestal.files.disk_errors import check_writable
from vestal.files.locks import FileLock
from vestal.mar.sample import Sample, read_sample
from vestal.project import Project, ReadyFile
from vestal.server.api import Api
from vestal.server.draining import Draining, format_unfinished
from vestal.server.java import find_java
from vestal.server.launch import LaunchOptions, TorchServe, temp_folder
from vestal.server.lock import lock_project
from vestal.server.logs import Logs
from vestal.server.readiness import Readiness, ServerEnded
from vestal.server.spec import ModelSpec, find_models, no_archive_error
from vestal.server.state_files import StateFiles

_CALL_SECONDS = 5.0


class Server:
    """A TorchServe process with its models; it starts and stops with a `with`.

    Args:
        models: `NAME=ARCHIVE` or `ARCHIVE` in the model store; empty for the newest version of
            every model. The first version of a model is its default.
        port: None for the ports of config.properties, 0 for free ports, N for N, N+1 and N+2.
        ready_file: written when all models are ready, in addition to the project's own.
        timeout: seconds until all models are ready.
        strict: raise VestalError if an archive cannot be served, instead of serving the others.
        on_event: receives a sentence about each step.

    Raises:
        UsageError: on entering: an argument or a setting is invalid.
        VestalError: on entering: no Java, a port in use, another server in this project, no model
            that can be served. In any case, all processes and files except the logs are removed.
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
        # Commands find the server by the project's own file.
        self._ready_files = [project.ready_file, *([ready_file.absolute()] if ready_file else [])]
        self._state_files = StateFiles(project, self._ready_files)
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
        """Contents of the ready file. Raises VestalError outside the `with`."""
        if self._state_files.ready is None:
            raise VestalError("the server is not running; use it inside `with Server(...)`")
        return self._state_files.ready

    def sample(self) -> Sample | None:
        """Return the packed sample of the first served model, if its archive has one."""
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
        """Block while TorchServe runs. Raises VestalError with the end of its log when it ends."""
        while True:
            self._check(3600)

    def drain(self, seconds: float) -> None:
        """Remove the ready files and wait until no request is in progress, for at most `seconds`.

        New requests are still served. Raises VestalError if TorchServe ends.
        """
        assert self._api is not None
        self._state_files.remove_ready()
        with contextlib.suppress(OSError):  # with a full disk, requests can still be completed
            self._state_files.write_phase("stopping")
        self._on_event(
            f"stopping: waiting for requests in progress, at most {seconds:g} s "
            "(Ctrl-C or SIGTERM again stops at once)"
        )
        try:
            unfinished = Draining(self._api, self._check, seconds).wait()
        except (requests.RequestException, OSError, ValueError) as error:
            self._check(1)
            self._on_event(f"it is unknown whether requests were cut off: {error}")
            return
        if unfinished:
            self._on_event(f"cut off after {seconds:g} s: {format_unfinished(unfinished)}")
        else:
            self._on_event("all requests were completed")

    def stop(self) -> None:
        """Stop all processes; a second call does nothing."""
        if self._lock is not None:
            self._state_files.remove_ready()
            self._state_files.remove_phase()
        torchserve, self._torchserve = self._torchserve, None
        if torchserve is not None:
            torchserve.stop()
        api, self._api = self._api, None
        if api is not None:
            api.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _start(self) -> None:
        project = self._project
        configuration = Configuration.load(project)
        for notice in notices(configuration):
            self._on_event(notice)
        endpoints = self._endpoints = configuration.endpoints(self._port)
        store = (self._model_store or configuration.model_store).resolve()
        specs, failed = find_models(self._models, store)
        if failed and self._strict:
            raise failed[0].error
        self._archives = {(spec.name, spec.version): spec.archive for spec in specs}
        self._check_ready_file()
        java = find_java(os.environ)
        if java.home_problem:
            self._on_event(f"{java.home_problem}; using {java.executable}")
        self._lock = lock_project(project)
        check_free(endpoints)
        self._prepare_folders()
        self._state_files.write_phase("starting")
        for each in failed:
            self._on_event(f"{each.archive} is not served: {each.error}")
        self._logs = Logs(project.logs, time.time())
        deadline = time.monotonic() + self._timeout
        self._on_event(f"starting TorchServe on Java {java.version}")
        options = LaunchOptions(
            project, configuration, endpoints, store, self._state_files.files, java.executable
        )
        self._torchserve = TorchServe(options, self._lock.fileno())
        key_file = project.key_file if configuration.tokens else None
        self._api = Api(endpoints, key_file)
        readiness = Readiness(self._api, self._logs, deadline, self._check, self._on_event)
        failed += readiness.load(specs, strict=self._strict)
        models = self._list_versions(self._api)
        if not models:
            raise no_archive_error(failed)
        reasons = {each.archive: str(each.error).splitlines()[0] for each in failed}
        inference, management, metrics = (endpoint.url for endpoint in endpoints[:3])
        ready = ReadyFile(
            inference,
            management,
            metrics,
            pid=os.getpid(),
            key_file=str(key_file) if key_file else None,
            models=_in_order(models, specs),
            model_store=str(store),
            failed=[{"archive": name, "reason": reason} for name, reason in reasons.items()],
        )
        self._state_files.write_ready(ready)
        self._state_files.keep_updated(self._api)

    def _prepare_folders(self) -> None:
        project = self._project
        project.logs.mkdir(exist_ok=True)
        for folder in (project.state, project.logs, temp_folder()):
            check_writable(folder)
        for stale in (*self._state_files.files, project.key_file):
            stale.unlink(missing_ok=True)  # left when the machine lost power

    def _list_versions(self, api: Api) -> list[dict[str, Any]]:
        try:
            return api.list_versions(_CALL_SECONDS)
        except requests.RequestException as error:
            self._check(_CALL_SECONDS)
            raise VestalError(f"TorchServe did not list its models: {error}") from None

    def _check(self, seconds: float) -> None:
        """Raise VestalError if TorchServe ends within this many seconds."""
        if self._torchserve is None:
            raise VestalError("the server is not running; use it inside `with Server(...)`")
        reason = self._torchserve.ended(seconds)
        if reason is None:
            return
        port = self._logs.unbound_port()
        for endpoint in self._endpoints:
            if endpoint.port == port:  # taken after `check_free`
                raise ServerEnded(port_in_use_message(endpoint))
        raise ServerEnded("\n".join([f"TorchServe ended ({reason})", *self._logs.server_tail()]))

    def _check_ready_file(self) -> None:
        """Refuse an existing file that is not a ready file: ready files are removed."""
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
                    f"--ready-file {file} exists and is not a ready file. Choose another path"
                ) from None


def _in_order(models: Sequence[dict[str, Any]], specs: Sequence[ModelSpec]) -> list[dict[str, Any]]:
    """Sort the served models as they were requested."""
    order = {(spec.name, spec.version): position for position, spec in enumerate(specs)}
    last = len(order)  # registered by others meanwhile
    return sorted(models, key=lambda model: order.get((model["name"], model["version"]), last))
