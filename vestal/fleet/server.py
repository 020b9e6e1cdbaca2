"""`vestal serve` in Python: a TorchServe with its keeper, which run inside a `with`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from vestal.client import Client, ClientError
from vestal.configuration.config import Configuration
from vestal.configuration.notices import notices
from vestal.configuration.ports import Endpoint, check_free
from vestal.errors import VestalError
from vestal.files.disk_errors import check_writable
from vestal.files.locks import FileLock
from vestal.fleet.api_server import ApiServer
from vestal.fleet.assembling import make_fleet
from vestal.fleet.canary.counts import gateway_statistics
from vestal.fleet.canary.runner import Canaries
from vestal.fleet.initial import Initial, choose, needs_archives, state_folder
from vestal.fleet.keeper import Keeper
from vestal.fleet.observing import Observed
from vestal.fleet.publishing import Publication
from vestal.fleet.runner import Runner
from vestal.fleet.start_report import StartReport
from vestal.fleet.state import StateStore
from vestal.fleet.systemd import notify
from vestal.mar.sample import Sample, read_sample
from vestal.project import Project, ReadyFile
from vestal.server.draining import Draining, format_unfinished
from vestal.server.guarded import temp_folder
from vestal.server.java import find_java
from vestal.server.launch import LaunchOptions
from vestal.server.lock import lock_project
from vestal.server.spec import FailedArchive, ModelSpec, find_models

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
        self._publication = Publication(project, ready_file)
        self._serving_file = serving_file
        self._timeout = timeout
        self._strict = strict
        self._on_event = on_event or (lambda _: None)
        self._lock: FileLock | None = None
        self._runner: Runner | None = None
        self._client: Client | None = None
        self._keeper: Keeper | None = None
        self._api: ApiServer | None = None
        self._store = Path()

    @property
    def ready(self) -> ReadyFile:
        """Contents of the ready file. Raises VestalError outside the `with`."""
        if self._publication.ready is None:
            raise VestalError(_NOT_RUNNING)
        return self._publication.ready

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
        self.keeper.drain()
        notify("STOPPING=1")
        self._publication.remove_ready()
        with contextlib.suppress(OSError):  # with a full disk, requests can still be completed
            self._publication.write_phase("stopping")
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
            self._keeper.gatekeeper.stop()
        if self._lock is not None:
            self._publication.remove_ready()
        if self._runner is not None:
            self._runner.stop()
        api, self._api = self._api, None
        if api is not None:
            api.stop()
        if self._client is not None:
            self._client.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            self._publication.remove()
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
        self._publication.check()
        java = find_java(os.environ)
        if java.home_problem:
            self._on_event(f"{java.home_problem}; using {java.executable}")
        self._lock = lock_project(project)
        state = StateStore(state_folder(project))
        initial = self._choose(state)
        check_free([*endpoints, keeper_endpoint])
        self._prepare_folders()
        self._publication.write_phase("starting")
        report = StartReport(initial, self._on_event, strict=self._strict)
        self._on_event(f"starting TorchServe on Java {java.version}")
        options = LaunchOptions(
            project,
            configuration,
            endpoints,
            self._store,
            [*self._publication.files, project.worker_counts],
            java.executable,
        )
        self._runner = Runner(options, self._lock.fileno())
        self._runner.start()
        fleet = make_fleet(
            options,
            keeper_endpoint,
            self._runner,
            self._lock.fileno(),
            state,
            initial,
            lambda kind, text, step: report.print(self.keeper, kind, text, step),
        )
        self._client = fleet.client
        canaries = Canaries(fleet, state, gateway_statistics(self._gateway_page))
        self._keeper = Keeper(fleet, canaries, self._publication.write_again, self._update)
        self._start_api(self._keeper, keeper_endpoint)
        self._keeper.gatekeeper.start(initial.desired)
        self._keeper.start()
        failed = report.wait(self._keeper)
        self._publish(options, initial, failed)
        self._keeper.set_running()
        notify("READY=1")

    def _gateway_page(self, path: str) -> str:
        """Return a page of the gateway's admin interface. Raises VestalError if it does not run."""
        admin = self.keeper.gatekeeper.admin
        if admin is None:
            raise VestalError("the gateway is not running")
        return admin.get(path)

    def _start_api(self, keeper: Keeper, endpoint: Endpoint) -> None:
        token = self._publication.write_token()
        self._api = ApiServer(keeper, token, endpoint.host, endpoint.port)
        self._api.start()
        self._publication.keeper = self._api.url
        self._publication.write_phase("starting")

    def _publish(
        self, options: LaunchOptions, initial: Initial, failed: Sequence[FailedArchive]
    ) -> None:
        inference, management, metrics = (endpoint.url for endpoint in options.endpoints[:3])
        reasons = {each.archive: str(each.error).splitlines()[0] for each in failed}
        ready = ReadyFile(
            inference,
            management,
            metrics,
            pid=os.getpid(),
            key_file=str(options.key_file) if options.key_file else None,
            models=[],
            model_store=str(self._store),
            failed=[{"archive": name, "reason": reason} for name, reason in reasons.items()],
            keeper=self._publication.keeper,
            gateway=self._gateway_url(),
        )
        self._publication.write_ready(ready, initial.desired, self.keeper.observed)

    def _choose(self, state: StateStore) -> Initial:
        initial = choose(
            self._project, self._models, self._store, state, self._serving_file, self._timeout
        )
        for notice in (*state.notices, *initial.notices):
            self._on_event(notice)
        if initial.source is not None and initial.desired != state.desired:
            state.add_revision(initial.desired, initial.source)
        return initial

    def _update(self, observed: Mapping[str, Observed]) -> None:
        if not self.keeper.stopping:
            ready = self.keeper.ready()[0]
            self._publication.update(observed, self._gateway_url(), ready=ready)

    def _gateway_url(self) -> str | None:
        status = self.keeper.gatekeeper.status
        return status.url if status else None

    def _prepare_folders(self) -> None:
        project = self._project
        project.logs.mkdir(exist_ok=True)
        for folder in (project.state, project.logs, temp_folder()):
            check_writable(folder)
        self._publication.remove_stale()
