"""A keeper without TorchServe that stores what is desired and plays a test's events."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from vestal.errors import UsageError, VestalError
from vestal.fleet.api_server import ApiServer
from vestal.fleet.canary.requests import CanaryRequest, CanaryStatus, Command, no_canary
from vestal.fleet.canary.states import Entry
from vestal.fleet.desired import Desired, ModelTarget, VersionTarget, Workers
from vestal.fleet.keeper_token import write_token
from vestal.fleet.status import (
    Event,
    ModelStatus,
    PlannedProblem,
    PlannedStep,
    PlanReport,
    Revision,
    Source,
    Status,
    VersionStatus,
    WorkerCounts,
)
from vestal.project import Project, ReadyFile

SOURCE = Source(command="vestal serve", user="ops")


def desired(**models: list[str]) -> Desired:
    """A desired state, `desired(mnist=["1.0", "2.0"])`; the first version is the default."""
    return Desired(
        models={
            name: ModelTarget(
                default=versions[0],
                versions={
                    version: VersionTarget(
                        archive=f"{name}-{version}.mar",
                        sha256=f"{name}{version}".encode().hex().ljust(64, "0"),
                        workers=Workers(min=1, max=1),
                    )
                    for version in versions
                },
            )
            for name, versions in models.items()
        }
    )


class FakeKeeper:
    """A KeeperControl.

    Attributes:
        planned: the report of `plan`; None for a switch of every model whose default differs.
        outcome: the outcome and the reason that each revision ends with; None never ends it.
        script: events that each revision emits before its end, as arguments of `emit`.
        failure: the error that `apply` and `start_canary` raise.
        canary_runs: canaries by model; `start_canary` adds one at its first step.
        requested: the requests that started them.
        shown: the status to return; None for one made from the desired state.
    """

    def __init__(self, first: Desired) -> None:
        self.history = [Revision(number=1, time=1.0, source=SOURCE, desired=first, outcome="done")]
        self.planned: PlanReport | None = None
        self.outcome: tuple[str, str | None] | None = ("done", None)
        self.script: list[dict] = []
        self.failure: VestalError | None = None
        self.shown: Status | None = None
        self.log: list[Event] = []
        self.canary_runs: dict[str, CanaryStatus] = {}
        self.requested: list[CanaryRequest] = []
        self.stopped = threading.Event()
        self.reasons: list[str] = []
        self._changed = threading.Condition()

    def emit(self, kind, text, **fields) -> None:
        with self._changed:
            number = len(self.log) + 1
            revision = fields.pop("revision", self.history[0].number)
            event = Event(
                number=number, time=time.time(), kind=kind, revision=revision, text=text, **fields
            )
            self.log.append(event)
            self._changed.notify_all()

    def status(self) -> Status:
        if self.shown is not None:
            return self.shown.model_copy(update={"revision": self.history[0].number})
        models = [
            ModelStatus(
                name=name,
                desired=target.default,
                default=target.default,
                ready=True,
                versions=[
                    VersionStatus(
                        version=version,
                        archive=each.archive,
                        state="ready",
                        default=version == target.default,
                        workers=WorkerCounts(desired=1, ready=1, starting=0, given_up=0),
                        memory=650_000_000,
                    )
                    for version, each in target.versions.items()
                ],
            )
            for name, target in self.desired().models.items()
        ]
        number = self.history[0].number
        return Status(phase="running", ready=True, converged=True, revision=number, models=models)

    def desired(self) -> Desired:
        return self.history[0].desired

    def plan(self, desired: Desired) -> PlanReport:
        if self.planned is not None:
            return self.planned
        now, steps = self.desired().models, []
        for name, target in desired.models.items():
            before = now[name].default if name in now else None
            if before != target.default:
                steps.append(step("switch", name, target.default, f"{before} -> {target.default}"))
        steps += [step("remove", name, now[name].default) for name in now.keys() - desired.models]
        return PlanReport(steps=steps)

    def apply(self, desired: Desired, source: Source) -> Revision:
        if self.failure is not None:
            raise self.failure
        return self._add(desired, source)

    def rollback(self, model: str | None, source: Source) -> Revision:
        if len(self.history) < 2:
            raise UsageError("there is no previous revision to go back to")
        return self._add(self.history[1].desired, source)

    def revisions(self) -> list[Revision]:
        return list(self.history)

    def canaries(self) -> list[CanaryStatus]:
        return list(self.canary_runs.values())

    def start_canary(self, request: CanaryRequest) -> CanaryStatus:
        if self.failure is not None:
            raise self.failure
        self.requested.append(request)
        status = CanaryStatus(
            model=request.model,
            version=request.version,
            default=self.desired().models[request.model].default,
            state="running",
            ended=False,
            rules=request.rules,
            weight=request.rules.steps[0],
            log=[Entry(time=1.0, text=f"{request.model} {request.version} is loaded")],
        )
        self.canary_runs[request.model] = status
        return status

    def change_canary(self, model: str, command: Command) -> CanaryStatus:
        if model not in self.canary_runs:
            raise UsageError(no_canary(model))
        states = {"pause": "paused", "resume": "running", "abort": "aborted"}
        self.change_run(model, states[command], command, ended=command == "abort")
        return self.canary_runs[model]

    def change_run(self, model: str, state: str, text: str, **fields) -> None:
        """Change a canary, with another entry in its log."""
        run = self.canary_runs[model]
        log = [*run.log, Entry(time=2.0, text=text)]
        update = {"state": state, "log": log, **fields}
        self.canary_runs[model] = run.model_copy(update=update)

    def events(self, after: int, timeout: float) -> Iterator[Event]:
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                new = self.log[after:]
                left = deadline - time.monotonic()
                if not new and left > 0:
                    self._changed.wait(left)
                    new = self.log[after:]
            yield from new
            after += len(new)
            if time.monotonic() >= deadline:
                return

    def ready(self) -> tuple[bool, list[str]]:
        return not self.reasons, self.reasons

    def metrics(self) -> str:
        return "# TYPE vestal_keeper_converged gauge\nvestal_keeper_converged 1\n"

    def request_stop(self) -> None:
        self.stopped.set()

    def _add(self, desired: Desired, source: Source) -> Revision:
        number = self.history[0].number + 1
        revision = Revision(number=number, time=time.time(), source=source, desired=desired)
        self.history.insert(0, revision)
        for fields in self.script:
            self.emit(**fields)
        if self.outcome is not None:
            self.end(*self.outcome)
        return revision

    def end(self, outcome: str, reason: str | None = None) -> None:
        self.history[0] = self.history[0].model_copy(update={"outcome": outcome, "reason": reason})
        self.emit("converged" if outcome == "done" else "rejected", reason or "everything runs")


def step(action, model, version, change="", **fields) -> PlannedStep:
    memory = {"memory_before": 1_300_000_000, "memory_after": 1_950_000_000}
    return PlannedStep(
        action=action,
        model=model,
        version=version,
        change=change or version,
        **{"why": "it is desired", **memory, **fields},
    )


def problem(model: str, version: str, reason: str) -> PlanReport:
    return PlanReport(problems=[PlannedProblem(model=model, version=version, reason=reason)])


@contextlib.contextmanager
def keeper_api(
    project: Project, keeper: FakeKeeper, pid: int, port: int = 0
) -> Iterator[ApiServer]:
    """Serve the API of a fake keeper, and write the files by which commands find it."""
    project.state.mkdir(exist_ok=True)
    api = ApiServer(keeper, write_token(project), "127.0.0.1", 0)
    api.start()
    address = "http://127.0.0.1:9"
    ready = ReadyFile(address, address, address, pid, None, [], keeper=api.url)
    project.ready_file.write_text(ready.to_json())
    try:
        yield api
    finally:
        api.stop()
