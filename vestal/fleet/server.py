"""`vestal serve` in Python: a TorchServe with its keeper, which run inside a `with`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from vestal.client import Client, ClientError
from vestal.client.tokens import KeyFile
from vestal.configuration.config import Configuration
from vestal.configuration.notices import notices
from vestal.configuration.ports import Endpoint, check_free
from vestal.errors import UsageError, VestalError
from vestal.files.disk_errors import check_writable
from vestal.files.locks import FileLock
from vestal.fleet.api_server import ApiServer
from vestal.fleet.fence import Management
from vestal.fleet.fleet import Fleet
from vestal.fleet.initial import Initial, choose, needs_archives, state_folder
from vestal.fleet.judging import TrafficJudge
from vestal.fleet.keeper import Keeper
from vestal.fleet.keeper_token import remove_token, token_file, write_token
from vestal.fleet.knowledge import Knowledge
from vestal.fleet.observing import Observed
from vestal.fleet.revisions import Revisions
from vestal.fleet.runner import Runner
from vestal.fleet.state import StateStore
from vestal.fleet.status import EventKind
from vestal.fleet.steps import Register, Step, Verify
from vestal.fleet.systemd import notify
from vestal.mar.sample import Sample, read_sample
from vestal.project import Project, ReadyFile
from vestal.server.draining import Draining, format_unfinished
from vestal.server.java import find_java
from vestal.server.launch import LaunchOptions, temp_folder
from vestal.server.lock import lock_project
from vestal.server.spec import FailedArchive, ModelSpec, find_models, no_archive_error
from vestal.server.state_files import StateFiles

_NOT_RUNNING = "the server is not running; use it inside `with Server(...)`"


class Server:
    """A TorchServe process, its models and their keeper; it starts and stops with a `with`.

    Args:
        models: `NAME=ARCHIVE` or `ARCHIVE` in the model store. Empty: the state that a command has
            stored; else serving.yaml; else the newest version of every model.
        port: None for the ports of config.properties, 0 for free ports, N for N to N+3.
        ready_file: written when all models are ready, in addition to the project's own.
        serving_file: a file like serving.yaml, to apply at the start.
        timeout: seconds until all models are ready.
        strict: raise VestalError if an archive cannot be served, instead of serving the others.
        on_event: receives a sentence about each step.

    Raises:
        UsageError: on entering: an argument or a setting is invalid.
        VestalError: on entering: no Java, a port in use, another server in this project, no model
            that can be served. In any case, all processes and files except the logs and the stored
            state are removed.
    """

    def __init__(
        self,
        project: Project,
        models: Sequence[str | ModelSpec] = (),
        *,
        model_store: Path | None = None,
        port: int | None = None,
        ready_file: Path | None = None,
        serving_file: Path | None = None,
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
        self._serving_file = serving_file
        self._timeout = timeout
        self._strict = strict
        self._on_event = on_event or (lambda _: None)
        self._lock: FileLock | None = None
        self._runner: Runner | None = None
        self._client: Client | None = None
        self._keeper: Keeper | None = None
        self._api: ApiServer | None = None
        self._store, self._token = Path(), ""
        self._order: list[tuple[str, str]] = []
        self._ready: ReadyFile | None = None

    @property
    def ready(self) -> ReadyFile:
        """Contents of the ready file. Raises VestalError outside the `with`."""
        if self._state_files.ready is None:
            raise VestalError(_NOT_RUNNING)
        return self._state_files.ready

    @property
    def keeper(self) -> Keeper:
        """The keeper. Raises VestalError outside the `with`."""
        if self._keeper is None:
            raise VestalError(_NOT_RUNNING)
        return self._keeper

    def sample(self) -> Sample | None:
        """Return the packed sample of the first served model, if its archive has one."""
        if not self.ready.models:
            return None
        first = self.ready.models[0]
        target = self.keeper.desired().models.get(first["name"])
        version = target.versions.get(first["version"]) if target else None
        return None if version is None else read_sample(self._store / version.archive)

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
        """Block until a command stops the server.

        Raises VestalError if TorchServe has ended and cannot be kept running.
        """
        self.keeper.wait_for_stop()

    def drain(self, seconds: float) -> None:
        """Remove the ready files and wait until no request is in progress, for at most `seconds`.

        New requests are still served. Raises VestalError if TorchServe ends.
        """
        assert self._client is not None
        notify("STOPPING=1")
        self.keeper.drain()
        self._state_files.remove_ready()
        with contextlib.suppress(OSError):  # with a full disk, requests can still be completed
            self._write_phase("stopping")
        self._on_event(
            f"stopping: waiting for requests in progress, at most {seconds:g} s "
            "(Ctrl-C or SIGTERM again stops at once)"
        )
        check = self.keeper.raise_if_ended
        try:
            unfinished = Draining(self._client, check, seconds).wait()
        except (ClientError, OSError, ValueError) as error:
            check(1)
            self._on_event(f"it is unknown whether requests were cut off: {error}")
            return
        if unfinished:
            self._on_event(f"cut off after {seconds:g} s: {format_unfinished(unfinished)}")
        else:
            self._on_event("all requests were completed")

    def stop(self) -> None:
        """Stop all processes; a second call does nothing."""
        if self._keeper is not None:
            self._keeper.stop()
        if self._lock is not None:
            self._state_files.remove_ready()
        if self._runner is not None:
            self._runner.stop()
        api, self._api = self._api, None
        if api is not None:
            api.stop()
        if self._client is not None:
            self._client.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            self._state_files.remove_phase()
            remove_token(self._project)
            lock.release()

    def _start(self) -> None:
        project = self._project
        configuration = Configuration.load(project)
        for notice in notices(configuration):
            self._on_event(notice)
        endpoints = configuration.endpoints(self._port)
        keeper_endpoint = configuration.keeper_endpoint(endpoints, self._port)
        self._store = (self._model_store or configuration.model_store).resolve()
        if self._models or needs_archives(project, self._serving_file):
            find_models(self._models, self._store)  # raises before anything is created
        self._check_ready_file()
        java = find_java(os.environ)
        if java.home_problem:
            self._on_event(f"{java.home_problem}; using {java.executable}")
        self._lock = lock_project(project)
        state = StateStore(state_folder(project))
        initial = self._choose(state)
        check_free([*endpoints, keeper_endpoint])
        self._prepare_folders()
        self._write_phase("starting")
        for each in initial.failed:
            self._on_event(f"{each.archive} is not served: {each.error}")
        self._on_event(f"starting TorchServe on Java {java.version}")
        files = [*self._state_files.files, token_file(project)]
        options = LaunchOptions(
            project, configuration, endpoints, self._store, files, java.executable
        )
        self._runner = Runner(options, self._lock.fileno())
        self._runner.start()
        key_file = project.key_file if configuration.tokens else None
        self._client = _own_client(endpoints, key_file)
        keys = None if key_file is None else KeyFile(key_file)
        fleet = Fleet(
            self._client,
            Management(endpoints[1].url, lambda: None if keys is None else keys.get("management")),
            self._store,
            self._runner,
            Knowledge(state, stored=initial.stored),
            Revisions(state, stored=initial.stored),
            TrafficJudge(self._client, self._runner.logs),
            self._print,
            initial.desired,
        )
        self._keeper = Keeper(fleet, self._write_again, self._update_models)
        self._token = write_token(project)
        self._api = ApiServer(self._keeper, self._token, keeper_endpoint.host, keeper_endpoint.port)
        self._api.start()
        self._write_phase("starting")
        self._order = [
            (name, version)
            for name, model in initial.desired.models.items()
            for version in model.versions
        ]
        self._keeper.start()
        failed = self._load(self._keeper, initial)
        inference, management, metrics = (endpoint.url for endpoint in endpoints[:3])
        reasons = {each.archive: str(each.error).splitlines()[0] for each in failed}
        self._ready = ReadyFile(
            inference,
            management,
            metrics,
            pid=os.getpid(),
            key_file=str(key_file) if key_file else None,
            models=self._served(self._keeper.observed),
            model_store=str(self._store),
            failed=[{"archive": name, "reason": reason} for name, reason in reasons.items()],
            keeper=self._api.url,
        )
        self._state_files.write_ready(self._ready)
        self._keeper.set_running()
        notify("READY=1")

    def _choose(self, state: StateStore) -> Initial:
        initial = choose(
            self._project, self._models, self._store, state, self._serving_file, self._timeout
        )
        for notice in (*state.notices, *initial.notices):
            self._on_event(notice)
        if initial.failed and self._strict:
            raise initial.failed[0].error
        if initial.source is not None:
            state.add_revision(initial.desired, initial.source)
        return initial

    def _load(self, keeper: Keeper, initial: Initial) -> list[FailedArchive]:
        """Wait until every model is served or has failed; return those that have."""
        while not keeper.wait_until_converged(0.2):
            if self._strict and keeper.failures:
                break
        failed = list(initial.failed)
        for (name, version), error in keeper.failures.items():
            if self._strict:
                raise error
            failed.append(FailedArchive(self._archive(initial, name, version), error))
        for problem in keeper.problems:
            if (problem.model, problem.version) not in keeper.failures:
                error = VestalError(f"{problem.model} {problem.version}: {problem.reason}")
                archive = self._archive(initial, problem.model, problem.version)
                if self._strict:
                    raise error
                self._on_event(f"{archive} is not served: {error}")
                failed.append(FailedArchive(archive, error))
        if not keeper.observed and initial.desired.models:
            raise no_archive_error(failed)
        return failed

    @staticmethod
    def _archive(initial: Initial, name: str, version: str) -> str:
        return initial.desired.models[name].versions[version].archive

    def _print(self, kind: EventKind, text: str, step: Step | None) -> None:
        """Print an event of the keeper; at the start, only what a user waits for."""
        keeper = self._keeper
        if keeper is None or not keeper.starting:
            self._on_event(text)
        elif kind == "failed" and step is not None:
            error = keeper.failures[step.model, step.version]
            target = keeper.desired().models[step.model].versions.get(step.version)
            name = target.archive if target else f"{step.model} {step.version}"
            if not self._strict:
                self._on_event(f"{name} is not served: {error}")
        elif (kind, type(step)) in {("started", Register), ("done", Verify)} or kind == "note":
            self._on_event(text)

    def _write_again(self) -> None:
        """Write the files that TorchServe's guardian has removed."""
        with contextlib.suppress(OSError):  # with a full disk, the models are served nevertheless
            self._write_phase("starting")
            write_token(self._project, self._token)

    def _update_models(self, observed: Mapping[str, Observed]) -> None:
        """Update the ready file; after a restart of TorchServe, write it again when ready."""
        keeper = self._keeper
        if self._ready is None or keeper is None or keeper.stopping:
            return
        served = self._served(observed)
        if self._project.ready_file.exists():
            self._state_files.update_models(served)
        elif keeper.ready()[0]:
            from dataclasses import replace

            self._ready = replace(self._ready, models=served)
            self._state_files.write_ready(self._ready)

    def _served(self, observed: Mapping[str, Observed]) -> list[dict[str, Any]]:
        """List the served versions, in the order in which they were requested."""
        served = [
            {"name": name, "version": version, "default": version == model.default}
            for name, model in observed.items()
            for version in model.versions
        ]
        places = {key: place for place, key in enumerate(self._order)}
        last = len(places)  # registered by others meanwhile
        return sorted(served, key=lambda each: places.get((each["name"], each["version"]), last))

    def _write_phase(self, phase: str) -> None:
        self._state_files.write_phase(phase, self._api.url if self._api else None)

    def _prepare_folders(self) -> None:
        project = self._project
        project.logs.mkdir(exist_ok=True)
        for folder in (project.state, project.logs, temp_folder()):
            check_writable(folder)
        for stale in (*self._state_files.files, project.key_file):
            stale.unlink(missing_ok=True)  # left when the machine lost power

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


def _own_client(endpoints: Sequence[Endpoint], key_file: Path | None) -> Client:
    """Return a client without retries: the keeper must notice at once that TorchServe has ended."""
    inference, management, metrics = (endpoint.url for endpoint in endpoints[:3])
    return Client(
        inference,
        management=management,
        metrics=metrics,
        key_file=key_file,
        retries=0,
        hedge=False,
    )
