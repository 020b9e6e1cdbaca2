"""The work on one model: plan, carry out the first step, and plan again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Protocol

from vestal.client import Client, ClientError
from vestal.errors import VestalError
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.executing import Work, announce, carry_out
from vestal.fleet.failures import Interrupted, StepError, StepFailed, VersionFailed
from vestal.fleet.knowledge import Knowledge
from vestal.fleet.loading import server_error
from vestal.fleet.observing import observe_model, versions_given_up
from vestal.fleet.plan import plan_model
from vestal.fleet.runner import Runner
from vestal.fleet.settling import Verdict
from vestal.fleet.status import EventKind
from vestal.fleet.steps import Problem, Register, Settle, Step, Switch
from vestal.server.logs import Logs

RETRY_SECONDS = 10.0
"""Time after which a step that failed is tried again."""
_NOTICE_SECONDS = 15.0
"""Time in which the end of TorchServe is noticed; its guardian cleans up first."""


class Judge(Protocol):
    """Judges new default versions by their traffic."""

    def begin(self, model: str, old: str | None) -> None:
        """Record the old version's traffic, before a swap."""

    def switched(self, model: str) -> None:
        """Record that the new version is the default now."""

    def verdict(self, step: Settle, target: ModelTarget) -> Verdict: ...


@dataclass
class Fleet:
    """What all jobs share. `target_lock` protects `desired`, `revision` and `stopping`.

    Attributes:
        thorough: check archives as `vestal check` does.
        report: receives events: kind, text, step.
    """

    client: Client
    store: Path
    runner: Runner
    knowledge: Knowledge
    judge: Judge
    report: Callable[[EventKind, str, Step | None], None]
    desired: Desired
    revision: int = 0
    starting: bool = True
    thorough: bool = False
    stopping: bool = False
    target_lock: RLock = field(default_factory=RLock)
    errors: dict[tuple[str, str], VestalError] = field(default_factory=dict)
    """Why versions were rejected, with their logs."""

    def target(self, name: str) -> ModelTarget | None:
        with self.target_lock:
            return self.desired.models.get(name)


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
        self.retry_at = 0.0

    def run(self) -> None:
        """Carry out step by step; never raises for a failed step."""
        try:
            last: Step | None = None
            while (step := self._next()) is not None:
                if step == last:
                    raise StepFailed(f"{self.doing} had no effect")
                self._carry_out(step)
                last = step
        except Interrupted:
            return
        except (StepFailed, ClientError) as error:
            if self._has_ended():
                return
            self.retry_at = time.monotonic() + RETRY_SECONDS
            self._fleet.report("failed", f"{self.name}: {_summary(error)}", None)

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
        fleet.knowledge.begin(step)
        self.synced = False
        try:
            result = carry_out(step, work)
        except (StepError, ClientError) as error:
            fleet.knowledge.end(step, None)
            if not self._is_fault(error):
                raise
            fleet.knowledge.reject(step, _summary(error))
            fleet.errors[step.model, step.version] = error
            fleet.report("failed", _summary(error), step)
            return
        except BaseException:
            fleet.knowledge.end(step, None)
            raise
        fleet.knowledge.end(step, actual)
        if isinstance(step, Switch):
            fleet.judge.switched(self.name)
        fleet.report("done", result, step)

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
            store=fleet.store,
            actual=self._actual,
            target=target,
            logs=self._logs[step.version],
            thorough=fleet.thorough,
            interrupt=self._interrupt,
            judge=judge,
            note=lambda text: fleet.report("note", text, step),
        )

    def _interrupt(self) -> None:
        fleet = self._fleet
        with fleet.target_lock:
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


def _summary(error: StepError | ClientError) -> str:
    return error.summary if isinstance(error, StepError) else server_error(error)
