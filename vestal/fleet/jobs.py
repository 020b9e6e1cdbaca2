"""The work on one model: plan, carry out the first step, and plan again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from vestal.client import ClientError
from vestal.errors import VestalError
from vestal.fleet.executing import announce, carry_out
from vestal.fleet.failures import Interrupted, StepError, StepFailed, VersionFailed
from vestal.fleet.fleet import Fleet
from vestal.fleet.loading import server_error
from vestal.fleet.observing import observe_model, versions_given_up
from vestal.fleet.plan import plan_model
from vestal.fleet.priority import StartingWorkers
from vestal.fleet.settling import Verdict
from vestal.fleet.steps import Problem, Register, Scale, Settle, Step, Switch
from vestal.fleet.work import Work
from vestal.server.logs import Logs

RETRY_SECONDS = 10.0
"""Time after which a step that failed is tried again."""
_BUG_SECONDS = 60.0
"""Time after an error that is none of Vestal's own."""
_NOTICE_SECONDS = 15.0
"""Time in which the end of TorchServe is noticed; its guardian cleans up first."""


class Job:
    """Works on one model until its plan is empty; `doing` is the current step."""

    def __init__(self, fleet: Fleet, name: str, steps: Sequence[Step] = ()) -> None:
        """`steps`: carried out first, in addition to the plan."""
        self._fleet, self.name = fleet, name
        self._steps = list(steps)
        self._generation = fleet.runner.generation
        self._target = fleet.target(name)
        self._logs: dict[str, Logs] = {}
        self.doing: str | None = None
        self.synced = True
        """What is known of the model is as observed after the last step."""
        self.problems: Sequence[Problem] = ()
        self.failure: str | None = None
        """Why a step failed that is tried again later."""
        self._retry_at = 0.0
        self._revision = fleet.revisions.number
        self._thread = threading.Thread(target=self._run, name=f"vestal-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def is_idle(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def is_due(self, revision: int) -> bool:
        """Whether a step that failed may be tried again; at once for a new revision."""
        return time.monotonic() >= self._retry_at or revision != self._revision

    def _run(self) -> None:
        try:
            self._work_on_plan()
        except Exception as error:  # a VestalError: the disk is full, for example
            seconds = RETRY_SECONDS if isinstance(error, VestalError) else _BUG_SECONDS
            self._fail(describe_error(error), seconds)
            if self._fleet.starting:
                self._fleet.fatal = error
        finally:
            self.doing = None
            self._fleet.wake.set()

    def _work_on_plan(self) -> None:
        try:
            last: Step | None = None
            while (step := self._next()) is not None:
                if (same := replace(step, memory=0, why="")) == last:
                    raise StepFailed(f"{self.doing} had no effect")
                self._carry_out(step)
                last = same
        except Interrupted:
            return
        except (StepFailed, ClientError) as error:
            if self._has_ended():
                return
            self._fail(describe_error(error), RETRY_SECONDS)

    def _fail(self, reason: str, seconds: float) -> None:
        self.failure = reason if self.name in reason else f"{self.name}: {reason}"
        self._retry_at = time.monotonic() + seconds
        self._fleet.report("failed", self.failure)

    def _next(self) -> Step | None:
        fleet = self._fleet
        self._interrupt()
        self._target = fleet.target(self.name)
        observed = {self.name: observe_model(fleet.client, self.name)}
        given_up = versions_given_up(observed, fleet.runner.logs)
        self._actual = fleet.knowledge.actual(observed, given_up, claimed_except=self.name)
        fleet.knowledge.sync(self._actual, [self.name])
        self.synced = True
        if self._steps:
            return self._steps.pop(0)
        plan = plan_model(self.name, self._target, self._actual)
        self.problems = plan.problems
        return plan.steps[0] if plan.steps else None

    def _carry_out(self, step: Step) -> None:
        fleet, actual = self._fleet, self._actual
        work = self._work(step)
        self.doing = announce(step, work)
        fleet.report("started", self.doing, step)
        if isinstance(step, Register):
            state = fleet.knowledge.state(self.name)
            fleet.judge.begin(self.name, state.default)
        if isinstance(step, Register | Scale):
            self._count_workers(step)
        fleet.knowledge.begin(step)
        self.synced = False
        try:
            with self._starting_workers(step):
                result = carry_out(step, work)
        except (StepError, ClientError) as error:
            fleet.knowledge.end(step, None)
            if not self._is_fault(error):
                raise
            fleet.knowledge.reject(step, describe_error(error))
            fleet.errors[step.model, step.version] = error
            fleet.report("failed", describe_error(error), step)
            return
        except BaseException:
            fleet.knowledge.end(step, None)
            raise
        fleet.knowledge.end(step, actual)
        if isinstance(step, Switch):
            fleet.judge.switched(self.name)
        fleet.report("done", result, step)

    def _count_workers(self, step: Register | Scale) -> None:
        """Tell the workers that start how many there may be."""
        targets = self._target.versions if self._target else {}
        counts = {version: target.workers.max for version, target in targets.items()}
        counts[step.version] = max(counts.get(step.version, 0), step.workers)
        try:
            self._fleet.worker_counts.set(self.name, counts)
        except OSError as error:  # the model-config.yaml's number is used instead
            self._fleet.report("note", f"the number of workers could not be written: {error}", step)

    def _starting_workers(self, step: Step) -> AbstractContextManager[None]:
        """Workers that start must not slow down those of the model that serve."""
        pid, state = self._fleet.runner.pid, self._actual.models.get(self.name)
        serving = state.versions.get(state.default or "") if state is not None else None
        if pid is None or serving is None or not (serving.verified and serving.ready):
            return nullcontext()
        if not isinstance(step, Register | Scale):
            return nullcontext()
        seconds = self._target.swap.ready_seconds if self._target else 0.0
        return StartingWorkers(pid, seconds / 2)

    def _is_fault(self, error: VestalError) -> bool:
        """Whether to reject the version; at the start of the server, for any failure."""
        if isinstance(error, VersionFailed):
            return True
        starting = self._fleet.starting and not isinstance(error, Interrupted)
        return starting and not self._has_ended()

    def _work(self, step: Step) -> Work:
        fleet = self._fleet
        if isinstance(step, Register) or step.version not in self._logs:
            self._logs[step.version] = fleet.runner.logs.from_now()
        target = self._target

        def judge(settle: Settle) -> Verdict:
            assert target is not None
            return fleet.judge.verdict(settle, target)

        return Work(
            client=fleet.client,
            management=fleet.management,
            store=fleet.store,
            actual=self._actual,
            target=target,
            logs=self._logs[step.version],
            checks=fleet.archive_checks if fleet.thorough else None,
            interrupt=self._interrupt,
            judge=judge,
            note=lambda text: fleet.report("note", text, step),
            withdraw=lambda: fleet.gatekeeper.withdraw(step.model, step.version),
            restore=lambda: fleet.gatekeeper.restore(step.model, step.version),
        )

    def _interrupt(self) -> None:
        fleet = self._fleet
        with fleet.lock:
            if fleet.stopping:
                raise Interrupted("the server is stopping")
            if fleet.runner.ended.is_set() or fleet.runner.generation != self._generation:
                raise Interrupted("TorchServe has ended")
            if self.doing is not None and fleet.target(self.name) != self._target:
                self.doing = None
                raise Interrupted("the desired state has changed")

    def _has_ended(self) -> bool:
        """Whether a call failed because TorchServe has ended, or is about to."""
        fleet = self._fleet
        if fleet.stopping or fleet.runner.generation != self._generation:
            return True
        try:
            fleet.client.models(timeout=_NOTICE_SECONDS / 3)
        except ClientError:
            return fleet.runner.ended.wait(_NOTICE_SECONDS) or fleet.stopping
        return False


def describe_error(error: Exception) -> str:
    """Describe an error in one line."""
    if isinstance(error, StepError):
        return error.summary
    if isinstance(error, ClientError):
        return server_error(error)
    return str(error) if isinstance(error, VestalError) else f"unexpected error: {error!r}"
