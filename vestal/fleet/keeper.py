"""The keeper: compares what is desired with what runs, and converges, again and again.

Keeper ── Loop ──┬─ observing, knowledge     what runs, and what is known of it
                 ├─ adopting                 changes that others have made
                 └─ Job per model ── plan ── executing ── loading, judging
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from vestal.errors import VestalError
from vestal.fleet.actual import Actual
from vestal.fleet.canary.requests import CanaryRequest, CanaryStatus, Command
from vestal.fleet.canary.runner import Canaries
from vestal.fleet.desired import Desired
from vestal.fleet.fleet import Fleet
from vestal.fleet.gatekeeper import Gatekeeper
from vestal.fleet.gauges import gauges
from vestal.fleet.loop import Loop
from vestal.fleet.observing import Observed
from vestal.fleet.plan import plan, report
from vestal.fleet.reporting import model_status, not_ready_reasons
from vestal.fleet.status import Event, Phase, PlanReport, Revision, Source, Status
from vestal.fleet.steps import Problem
from vestal.server.logs import Logs

_POLL_SECONDS = 0.05
_END_SECONDS = 0.5
"""Time between two checks whether TorchServe cannot be kept running."""


class StopRequested(VestalError):
    """A command has stopped the server before it was ready."""


class Keeper:
    """Implements `KeeperControl`. `start` begins the loop, `stop` ends it.

    Args:
        on_end: called when TorchServe has ended, before it is started again.
        on_observed: called with every observation.
    """

    def __init__(
        self,
        fleet: Fleet,
        canaries: Canaries,
        on_end: Callable[[], None],
        on_observed: Callable[[Mapping[str, Observed]], None],
    ) -> None:
        self._fleet = fleet
        self._canaries = canaries
        self._loop = Loop(
            fleet, canaries, on_end, lambda: on_observed(self._loop.snapshot.observed)
        )
        self._phase: Phase = "starting"
        self._stop_requested = threading.Event()

    def status(self) -> Status:
        """Return the current state."""
        fleet, snapshot, jobs = self._fleet, self._loop.snapshot, self._loop.jobs
        actual, desired = snapshot.actual, self.desired()
        undesired = [n for n, m in actual.models.items() if n not in desired.models and m.versions]
        models = [
            model_status(
                name,
                desired.models.get(name),
                actual.models.get(name),
                snapshot.observed.get(name),
                jobs.get(name),
                fleet.judge.traffic,
            )
            for name in [*desired.models, *undesired]
        ]
        return Status(
            phase=self._phase,
            ready=self.ready()[0],
            converged=fleet.converged.is_set(),
            revision=fleet.revisions.number,
            models=models,
            memory_used=sum(v.memory for m in actual.models.values() for v in m.versions.values()),
            memory_free=actual.memory_free,
            torchserve_restarts=self._loop.restarts,
            gateway=fleet.gatekeeper.status,
        )

    def desired(self) -> Desired:
        """Return what is desired now."""
        with self._fleet.lock:
            return self._fleet.desired

    def plan(self, desired: Desired) -> PlanReport:
        """Return the plan for a desired state, without changing anything."""
        actual = _forgiven(self._loop.snapshot.actual)
        return report(plan(desired, actual), actual)

    def apply(self, desired: Desired, source: Source) -> Revision:
        """Change what is desired; versions that were rejected are tried again.

        Raises:
            VestalError: the state cannot be written, or the server is stopping.
        """
        return self._fleet.change(desired, source, thorough=True, again=True)

    def rollback(self, model: str | None, source: Source) -> Revision:
        """Desire the previous version of a model again, or the whole previous revision.

        Raises:
            UsageError: there is nothing to go back to.
        """
        fleet = self._fleet
        with fleet.lock:
            known = fleet.knowledge.state(model or "")
            served = [known.serving, known.previous.version if known.previous else None]
            earlier = fleet.revisions.before(fleet.desired, model, [v for v in served if v])
            return self.apply(earlier, source)

    def revisions(self) -> list[Revision]:
        """Return the history, newest first."""
        return self._fleet.revisions.all()

    def canaries(self) -> list[CanaryStatus]:
        """Describe the canaries that run, and the last one of each other model."""
        return self._canaries.all()

    def start_canary(self, request: CanaryRequest) -> CanaryStatus:
        """Start a canary.

        Raises:
            UsageError: it cannot be started.
            VestalError: there is not enough memory, or the state cannot be written.
        """
        with self._fleet.lock:
            run, desired = self._canaries.prepare(request)
            for problem in self.plan(desired).problems:
                if (problem.model, problem.version) == (run.model, run.version):
                    raise VestalError(f"{run.name} cannot be loaded: {problem.reason}")
            return self._canaries.begin(run)

    def change_canary(self, model: str, command: Command) -> CanaryStatus:
        """Pause, resume or abort the canary of a model. Raises UsageError if none is running."""
        return self._canaries.command(model, command)

    def events(self, after: int, timeout: float) -> Iterator[Event]:
        """Yield events with a number above `after`; wait for new ones for at most `timeout` s."""
        return self._fleet.events.after(after, timeout)

    def ready(self) -> tuple[bool, list[str]]:
        """Whether every required version is READY and verified, and the reasons if not."""
        if self._phase in ("draining", "stopping"):
            return False, [f"the server is {self._phase}"]
        if not self._loop.snapshot.responds:
            return False, ["TorchServe does not respond"]
        reasons = not_ready_reasons(self.desired(), self._loop.snapshot.actual)
        return not reasons, reasons

    def metrics(self) -> str:
        """Return the keeper's metrics and the gateway's in Prometheus' text format."""
        return gauges(self.status()) + self._fleet.gatekeeper.metrics()

    def request_stop(self) -> None:
        """Stop the server: not ready, drain, stop."""
        self._stop_requested.set()

    def start(self) -> None:
        """Begin to converge."""
        self._loop.start()

    def wait_until_converged(self, seconds: float) -> bool:
        """Wait until nothing is left to do; False at the time limit.

        Raises:
            StopRequested: a command stops the server.
            VestalError: TorchServe has ended and cannot be kept running.
        """
        deadline = time.monotonic() + seconds
        while not self._fleet.converged.wait(_POLL_SECONDS) and time.monotonic() < deadline:
            self.raise_if_ended(0)
            if self._stop_requested.is_set():
                raise StopRequested("the server was stopped before it was ready")
        return self._fleet.converged.is_set()

    def wait_for_stop(self) -> None:
        """Block until a command stops the server.

        Raises:
            VestalError: TorchServe has ended and cannot be kept running.
        """
        while not self._stop_requested.wait(_END_SECONDS):
            self.raise_if_ended(0)

    def raise_if_ended(self, seconds: float) -> None:
        """Wait; raises the error that ends the loop within this time."""
        if self._loop.ended.wait(seconds) and self._loop.error is not None:
            raise self._loop.error

    def set_running(self) -> None:
        """Record that the start is complete."""
        self._phase = "running"
        self._fleet.starting = False

    def drain(self) -> None:
        """Start no more steps: the server is draining."""
        self._phase = "draining"
        with self._fleet.lock:
            self._fleet.stopping = True

    def stop(self) -> None:
        """End the loop and all steps; a second call does nothing."""
        self.drain()
        self._phase = "stopping"
        self._fleet.events.close()
        self._loop.stop()
        self._fleet.judge.close()

    @property
    def stopping(self) -> bool:
        return self._fleet.stopping

    @property
    def starting(self) -> bool:
        return self._fleet.starting

    @property
    def gatekeeper(self) -> Gatekeeper:
        """The gateway."""
        return self._fleet.gatekeeper

    @property
    def logs(self) -> Logs:
        """TorchServe's logs."""
        return self._fleet.runner.logs

    @property
    def failures(self) -> Mapping[tuple[str, str], VestalError]:
        """Why versions were rejected, with their logs."""
        return dict(self._fleet.errors)

    @property
    def problems(self) -> list[Problem]:
        """What prevented that everything runs as desired."""
        return self._loop.problems

    @property
    def observed(self) -> Mapping[str, Observed]:
        return self._loop.snapshot.observed


def _forgiven(actual: Actual) -> Actual:
    models = {name: replace(state, rejected={}) for name, state in actual.models.items()}
    return replace(actual, models=models)
