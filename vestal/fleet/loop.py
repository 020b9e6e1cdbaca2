"""The keeper's loop: observe, adopt, plan, start jobs, conclude."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vestal.client import ClientError
from vestal.errors import VestalError
from vestal.fleet.actual import Actual
from vestal.fleet.adopting import adopt, known_models
from vestal.fleet.canary.runner import Canaries
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.fleet import Fleet
from vestal.fleet.jobs import Job, describe_error
from vestal.fleet.loading import server_error
from vestal.fleet.observing import CALL_SECONDS, Observed, observe, versions_given_up
from vestal.fleet.plan import plan_model
from vestal.fleet.priority import ShadowWorkers
from vestal.fleet.runner import ServerEnded
from vestal.fleet.steps import Problem
from vestal.fleet.systemd import notify
from vestal.fleet.upkeep import Upkeep

LOOP_SECONDS = 1.0
_START_SECONDS = 0.1


@dataclass(frozen=True)
class Snapshot:
    """The last observation. `responds`: TorchServe did respond."""

    observed: Mapping[str, Observed]
    actual: Actual
    responds: bool = True


class Loop:
    """Runs in a thread, from `start` to `stop`; one job per model at most.

    Args:
        on_end: called when TorchServe has ended, before it is started again.
        on_observed: called after each observation.
    """

    def __init__(
        self,
        fleet: Fleet,
        canaries: Canaries,
        on_end: Callable[[], None],
        on_observed: Callable[[], None],
    ) -> None:
        self._fleet, self._canaries = fleet, canaries
        self._on_end, self._on_observed = on_end, on_observed
        self.snapshot = Snapshot({}, Actual(), responds=False)
        self.jobs: dict[str, Job] = {}
        """The last job of each model."""
        self.problems: list[Problem] = []
        self.restarts = 0
        self.error: VestalError | None = None
        self.ended = threading.Event()
        self._complaint = ""
        self._stopped = threading.Event()
        self._upkeep = Upkeep(fleet.client, fleet.management, fleet.judge.window, fleet.report)
        self._shadows = ShadowWorkers()
        self._thread = threading.Thread(target=self._run, name="vestal-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the loop; a second call does nothing."""
        self._stopped.set()
        self._fleet.wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        fleet = self._fleet
        try:
            while not self._stopped.is_set():
                try:
                    fleet.runner.check()
                    self._tick()
                except ServerEnded as error:
                    self._restart(error)
                except ClientError as error:
                    if self.snapshot.responds and not self._stopped.is_set():
                        fleet.report("note", f"TorchServe does not respond: {server_error(error)}")
                    self._forget()
                except Exception as error:
                    if fleet.starting:
                        raise
                    self._complain(error)
                notify("WATCHDOG=1")
                fleet.wake.wait(LOOP_SECONDS if self.snapshot.responds else _START_SECONDS)
                fleet.wake.clear()
        except VestalError as error:
            self.error = error
        except BaseException as error:
            self.error = VestalError(f"the keeper has failed: {error!r}")
            self.error.__cause__ = error
        finally:
            self.ended.set()

    def _restart(self, error: ServerEnded) -> None:
        fleet = self._fleet
        fleet.converged.clear()
        if fleet.starting or fleet.stopping:
            raise error
        self.restarts += 1
        self._forget()
        fleet.report("repair", f"{str(error).splitlines()[0]}; starting it again")
        fleet.runner.restart(error, self._on_end, self._stopped.wait)
        fleet.knowledge.forget_registrations()

    def _complain(self, error: Exception) -> None:
        """Report an error, such as a full disk, that the next round may not have."""
        text = describe_error(error)
        if text != self._complaint:
            self._fleet.report("note", text)
        self._complaint = text

    def _forget(self) -> None:
        self.snapshot = Snapshot({}, self.snapshot.actual, responds=False)

    def _tick(self) -> None:
        fleet = self._fleet
        if fleet.fatal is not None:
            raise fleet.fatal
        # Only this thread starts jobs: a model that is idle now is idle until the end.
        before = list(self.jobs.values())
        idle = {job.name for job in before if job.is_idle()}
        busy = self.jobs.keys() - idle
        observed = observe(fleet.client)
        fleet.client.renew_keys(timeout=CALL_SECONDS)
        for name, (known, seen) in known_models(fleet.knowledge.models, observed).items():
            if name not in busy and (name not in self.jobs or self.jobs[name].synced):
                adopt(fleet, name, known, seen)
        actual = fleet.knowledge.actual(observed, versions_given_up(observed, fleet.runner.logs))
        fleet.knowledge.sync(actual, actual.models.keys() - busy)
        for name in idle:
            self.jobs[name].synced = True
        self.snapshot = Snapshot(observed, actual)
        fleet.judge.scrape({n: m.default for n, m in observed.items() if m.default is not None})
        with fleet.lock:
            number, desired = fleet.revisions.number, fleet.desired
        fleet.gatekeeper.observe(desired, actual)
        self._shadows.update(_shadow_pids(desired, observed))
        self._on_observed()
        if not fleet.stopping:
            problems = self._start_jobs(desired, actual, busy)
            # A job may have ended meanwhile, but what it has done is not in this snapshot.
            if not busy and all(job in before for job in self.jobs.values()):
                self._conclude(number, problems)
        fleet.knowledge.measure(actual)
        self._canaries.step(actual, observed)

    def _start_jobs(self, desired: Desired, actual: Actual, busy: set[str]) -> list[Problem]:
        fleet = self._fleet
        problems: list[Problem] = []
        for name in {**desired.models, **actual.models}:
            if name in busy:
                continue
            part = plan_model(name, desired.models.get(name), actual)
            problems += part.problems
            last = self.jobs.get(name)
            if part.steps and (last is None or last.is_due(fleet.revisions.number)):
                fleet.converged.clear()
                self.jobs[name] = Job(fleet, name)
                self.jobs[name].start()
            elif not part.steps and name not in desired.models:
                fleet.knowledge.forget(name)
            elif not part.steps and not fleet.starting:
                self._look_after(name, desired.models[name])
        return problems

    def _look_after(self, name: str, target: ModelTarget) -> None:
        """Scale a model by its load, and check its workers."""
        fleet, observed = self._fleet, self.snapshot.observed.get(name)
        versions = observed.versions if observed else {}
        if (step := self._upkeep.step(target, versions, self.snapshot.actual)) is not None:
            fleet.report("scale", f"{name} {step.version}: {step.why}", step)
            self.jobs[name] = Job(fleet, name, [step])
            self.jobs[name].start()
        else:
            self._upkeep.check(target, versions)

    def _conclude(self, number: int, problems: list[Problem]) -> None:
        """Finish a revision when nothing is left to do."""
        fleet = self._fleet
        failures = [job.failure for job in self.jobs.values() if job.failure]
        if number != fleet.revisions.number or fleet.converged.is_set():
            return
        gateway = [f"gateway: {fleet.gatekeeper.problem}"] if fleet.gatekeeper.problem else []
        reason = "; ".join([*map(_sentence, problems), *failures, *gateway])
        fleet.revisions.finish(number, "failed" if reason else "done", reason or None)
        with fleet.lock:
            self.problems = problems
            if number == fleet.revisions.number:
                fleet.converged.set()
        if reason:
            fleet.report("rejected", reason)
        else:
            fleet.report("converged", "everything runs as desired")


def _shadow_pids(desired: Desired, observed: Mapping[str, Observed]) -> set[int]:
    """Process ids of the READY workers that only get copies of requests."""
    pids: set[int] = set()
    for name, target in desired.models.items():
        seen = observed.get(name)
        version = target.shadow.version if target.shadow else None
        if seen is None or version is None or version not in seen.versions:
            continue
        if version not in (seen.default, target.canary.version if target.canary else None):
            workers = seen.versions[version].ready_workers
            pids |= {worker.pid for worker in workers if worker.pid is not None}
    return pids


def _sentence(problem: Problem) -> str:
    """Return a problem as a sentence; the reason of a rejection names the version itself."""
    reason = problem.reason.removeprefix("rejected: ")
    named = problem.version in reason and problem.model in reason
    return reason if named else f"{problem.model} {problem.version}: {reason}"
