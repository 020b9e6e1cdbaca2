"""The keeper: compares what is desired with what runs, and converges, again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from vestal.client import Client, ClientError
from vestal.errors import VestalError
from vestal.fleet.actual import Actual, VersionState
from vestal.fleet.adopting import ForeignChange, adopted_target, desire, find_changes, known_models
from vestal.fleet.desired import Desired
from vestal.fleet.event_log import EventLog
from vestal.fleet.gauges import gauges
from vestal.fleet.jobs import Fleet, Job
from vestal.fleet.judging import TrafficJudge
from vestal.fleet.knowledge import Knowledge
from vestal.fleet.loading import server_error
from vestal.fleet.observing import Observed, observe, versions_given_up
from vestal.fleet.plan import plan, plan_model, report
from vestal.fleet.reporting import model_status, not_ready_reasons
from vestal.fleet.revisions import Revisions
from vestal.fleet.runner import Runner, ServerEnded
from vestal.fleet.state import StateStore
from vestal.fleet.status import Event, EventKind, Phase, PlanReport, Revision, Source, Status
from vestal.fleet.steps import Problem, Step
from vestal.mar.index import sha256_of

LOOP_SECONDS = 1.0
OTHERS = Source(command="TorchServe's management API", user="")
"""The source of changes that the keeper adopts."""


class Keeper:
    """Implements `KeeperControl`. `start` begins the loop, `stop` ends it.

    Args:
        desired: what should run at first.
        stored: whether `desired` is the newest revision of the store.
        on_event: receives the events: kind, text, step.
        on_restart: called when TorchServe has been started again.
        on_models: called with every observation.
    """

    def __init__(
        self,
        client: Client,
        runner: Runner,
        model_store: Path,
        state: StateStore,
        desired: Desired,
        *,
        stored: bool,
        on_event: Callable[[EventKind, str, Step | None], None],
        on_restart: Callable[[], None],
        on_models: Callable[[Mapping[str, Observed]], None],
    ) -> None:
        self._client, self._runner, self._on_event = client, runner, on_event
        self._on_restart, self._on_models = on_restart, on_models
        self._events = EventLog()
        self._knowledge = Knowledge(state, stored=stored)
        self._revisions = Revisions(state, desired, stored=stored)
        self.judge = TrafficJudge(client, runner.logs)
        self.fleet = Fleet(
            client,
            model_store,
            runner,
            self._knowledge,
            self.judge,
            self._report,
            desired,
            revision=self._revisions.number,
        )
        self._jobs: dict[str, tuple[Job, threading.Thread]] = {}
        self._last_jobs: dict[str, Job] = {}
        self._actual = Actual()
        self._observed: Mapping[str, Observed] = {}
        self.problems: list[Problem] = []
        self._converged = threading.Event()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._phase: Phase = "starting"
        self._restarts = 0
        self._error: VestalError | None = None
        self.ended = threading.Event()
        """The server is to stop: a command wants it, or TorchServe cannot be kept running."""
        self.failed = threading.Event()
        """The loop has ended with an error."""
        self._thread = threading.Thread(target=self._run, name="vestal-keeper", daemon=True)

    # What the keeper offers to its API.

    def status(self) -> Status:
        """Return the current state."""
        actual, desired = self._actual, self.desired()
        names = [*desired.models, *(n for n in actual.models if n not in desired.models)]
        models = [
            model_status(
                name,
                desired.models.get(name),
                actual.models.get(name),
                self._observed.get(name),
                self._last_jobs.get(name),
                busy=name in self._jobs,
                traffic=self.judge.traffic,
            )
            for name in names
            if name in desired.models or actual.models[name].versions
        ]
        ready, _ = self.ready()
        used = sum(v.memory for m in actual.models.values() for v in m.versions.values())
        return Status(
            phase=self._phase,
            ready=ready,
            converged=self._converged.is_set(),
            revision=self.fleet.revision,
            models=models,
            memory_used=used,
            memory_free=actual.memory_free,
            torchserve_restarts=self._restarts,
        )

    def desired(self) -> Desired:
        """Return what is desired now."""
        with self.fleet.target_lock:
            return self.fleet.desired

    def plan(self, desired: Desired) -> PlanReport:
        """Return the plan for a desired state, without changing anything."""
        actual = self._actual
        return report(plan(desired, _forgiven(actual)), actual)

    def apply(self, desired: Desired, source: Source) -> Revision:
        """Change what is desired; versions that were rejected are tried again."""
        return self._change(desired, source, thorough=True)

    def rollback(self, model: str | None, source: Source) -> Revision:
        """Desire the previous version of a model again, or the whole previous revision."""
        with self.fleet.target_lock:
            return self.apply(self._revisions.before(self.fleet.desired, model), source)

    def revisions(self) -> list[Revision]:
        """Return the history, newest first."""
        return self._revisions.all()

    def events(self, after: int, timeout: float) -> Iterator[Event]:
        """Yield events with a number above `after`; wait for new ones for at most `timeout` s."""
        return self._events.after(after, timeout)

    def ready(self) -> tuple[bool, list[str]]:
        """Whether every required version is READY and verified, and the reasons if not."""
        if self._phase in ("draining", "stopping"):
            return False, [f"the server is {self._phase}"]
        if self._runner.ended.is_set():
            return False, ["TorchServe is being restarted"]
        reasons = not_ready_reasons(self.desired(), self._actual)
        return not reasons, reasons

    def metrics(self) -> str:
        """Return the keeper's metrics in Prometheus' text format."""
        return gauges(self.status())

    def request_stop(self) -> None:
        """Stop the server: not ready, drain, stop."""
        self.ended.set()

    # What `vestal serve` does with the keeper.

    def start(self) -> None:
        self._thread.start()

    def wait_until_converged(self, seconds: float) -> bool:
        """Wait until nothing is left to do; False at the time limit. Raises what ends the loop."""
        deadline = time.monotonic() + seconds
        while not self._converged.wait(0.05):
            if self.ended.is_set() or time.monotonic() > deadline:
                break
        self.raise_if_failed()
        return self._converged.is_set()

    def raise_if_failed(self) -> None:
        """Raise the error that has ended the loop."""
        if self._error is not None:
            raise self._error

    def set_running(self) -> None:
        """The start is complete."""
        self._phase = "running"
        self.fleet.starting = False

    def drain(self) -> None:
        """Start no more steps: the server is draining."""
        self._phase = "draining"
        with self.fleet.target_lock:
            self.fleet.stopping = True

    def stop(self) -> None:
        """End the loop and all steps; a second call does nothing."""
        self.drain()
        self._phase = "stopping"
        self._stopped.set()
        self._wake.set()
        self._events.close()
        if self._thread.ident is not None:
            self._thread.join()
        self.judge.close()

    @property
    def failures(self) -> Mapping[tuple[str, str], VestalError]:
        """Why versions were rejected, with their logs."""
        return dict(self.fleet.errors)

    @property
    def observed(self) -> Mapping[str, Observed]:
        return self._observed

    # The loop.

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    self._runner.check()
                    self._tick()
                except ServerEnded as error:
                    self._restart(error)
                except ClientError as error:
                    if self._phase == "running" and not self._stopped.is_set():
                        self._report("note", f"TorchServe does not respond: {server_error(error)}")
                self._wake.wait(LOOP_SECONDS if self._observed else 0.1)
                self._wake.clear()
        except VestalError as error:
            self._error = error
        except BaseException as error:
            self._error = VestalError(f"the keeper failed unexpectedly: {error!r}")
            self._error.__cause__ = error
        finally:
            if self._error is not None:
                self.failed.set()
            self.ended.set()

    def _restart(self, error: ServerEnded) -> None:
        self._converged.clear()
        if self._phase == "starting" or self.fleet.stopping:
            raise error
        self._restarts += 1
        self._report("repair", f"{str(error).splitlines()[0]}; starting it again")
        self._runner.restart(error, self._stopped.wait)
        self._knowledge.forget_registrations()
        self._observed = {}
        self._on_restart()

    def _tick(self) -> None:
        self._jobs = {name: each for name, each in self._jobs.items() if each[1].is_alive()}
        observed = observe(self._client)
        self._adopt(observed)
        given_up = versions_given_up(observed, self._runner.logs)
        actual = self._knowledge.actual(observed, given_up)
        names = [name for name in known_models(actual.models, observed) if name not in self._jobs]
        self._knowledge.sync(actual, names)
        for name in names:
            if (last := self._last_jobs.get(name)) is not None:
                last.synced = True
        self._observed, self._actual = observed, actual
        defaults = {n: m.default for n, m in observed.items() if m.default is not None}
        self.judge.scrape(defaults)
        self._knowledge.measure(actual)
        self._on_models(observed)
        problems = self._start_jobs(actual)
        self._conclude(actual, problems)

    def _start_jobs(self, actual: Actual) -> list[Problem]:
        problems: list[Problem] = []
        if self.fleet.stopping:
            return problems
        desired = self.desired()
        for name in {**desired.models, **actual.models}:
            last = self._last_jobs.get(name)
            if name in self._jobs:
                continue
            part = plan_model(name, desired.models.get(name), actual)
            problems += part.problems
            if part.steps and (last is None or last.retry_at <= time.monotonic()):
                job = Job(self.fleet, name)
                thread = threading.Thread(
                    target=self._work, args=(job,), name=f"vestal-{name}", daemon=True
                )
                self._jobs[name], self._last_jobs[name] = (job, thread), job
                self._converged.clear()
                thread.start()
            elif not part.steps and name not in desired.models:
                self._knowledge.forget(name)
        return problems

    def _work(self, job: Job) -> None:
        try:
            job.run()
        except Exception as error:
            self._report("failed", f"{job.name}: unexpected error {error!r}")
            job.retry_at = time.monotonic() + 60
        finally:
            job.doing = None
            self._wake.set()

    def _conclude(self, actual: Actual, problems: list[Problem]) -> None:
        """Finish the revision when nothing is left to do."""
        waiting = any(job.retry_at > time.monotonic() for job in self._last_jobs.values())
        if self._jobs or waiting or self.fleet.stopping:
            return
        if not self._converged.is_set():
            self.problems = problems
            number = self.fleet.revision
            if problems:
                reason = "; ".join(f"{p.model} {p.version}: {p.reason}" for p in problems)
                self._revisions.finish(number, "failed", reason)
                self._report("rejected", reason)
            else:
                self._revisions.finish(number, "done")
                self._report("converged", "everything runs as desired")
            self._converged.set()

    def _adopt(self, observed: Mapping[str, Observed]) -> None:
        if self.fleet.stopping:
            return
        for name, (known, seen) in known_models(self._knowledge.models, observed).items():
            last = self._last_jobs.get(name)
            if name not in self._jobs and (last is None or last.synced):
                for change in list(find_changes(name, known, seen)):
                    self._adopt_change(change, seen)

    def _adopt_change(self, change: ForeignChange, seen: Observed | None) -> None:
        target = None
        if change.kind == "registered":
            assert seen is not None
            description = seen.versions[change.version]
            try:
                digest = sha256_of(self.fleet.store / description.archive)
            except OSError:
                return  # not an archive of this store
            target = adopted_target(self.fleet.store, description.archive, change.workers, digest)
            state = VersionState(
                description.archive, digest, change.workers, change.workers, verified=True
            )
            default = seen.default == change.version
            self._knowledge.adopt(change.model, change.version, state, default=default)
        elif change.kind == "unregistered":
            self._knowledge.disown(change.model, change.version)
        desired = self.desired()
        changed = desire(desired, change, target)
        if changed != desired:
            self._report("note", f"{change} by another client")
            self._change(changed, OTHERS, thorough=self.fleet.thorough)

    def _change(self, desired: Desired, source: Source, *, thorough: bool) -> Revision:
        fleet = self.fleet
        with fleet.target_lock:
            if fleet.stopping:
                raise VestalError("the server is stopping; the change was not made")
            revision = self._revisions.add(fleet.desired, desired, source)
            self._knowledge.start_storing()
            if source != OTHERS:
                self._knowledge.forgive()
                for job in self._last_jobs.values():
                    job.retry_at = 0.0
            fleet.desired, fleet.revision, fleet.thorough = desired, revision.number, thorough
            self._converged.clear()
        self._wake.set()
        return revision

    def _report(self, kind: EventKind, text: str, step: Step | None = None) -> None:
        self._events.add(
            kind,
            text,
            revision=self.fleet.revision,
            model=step.model if step else None,
            version=step.version if step else None,
            step=type(step).__name__.lower() if step else None,
        )
        self._on_event(kind, text, step)


def _forgiven(actual: Actual) -> Actual:
    models = {name: replace(state, rejected={}) for name, state in actual.models.items()}
    return replace(actual, models=models)
