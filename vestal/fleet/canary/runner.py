"""Canaries in the keeper: read the traffic, judge it, change what is desired, store it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from vestal.errors import UsageError, VestalError
from vestal.fleet import changes
from vestal.fleet.actual import Actual, ModelState
from vestal.fleet.canary import states
from vestal.fleet.canary.counts import Counts, Statistics, Version
from vestal.fleet.canary.judging import Observation, Watch, judge
from vestal.fleet.canary.requests import (
    CanaryRequest,
    CanaryStatus,
    Command,
    describe_traffic,
    no_canary,
)
from vestal.fleet.canary.states import Run
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.fleet import Fleet
from vestal.fleet.observing import Observed
from vestal.fleet.state import StateStore
from vestal.fleet.status import EventKind, Source

_NO_GATEWAY = (
    "a canary needs the gateway, which divides the requests. Add `gateway: {port: 8000}` to "
    "serving.yaml and run `vestal apply` (it requires pip install 'vestal[gateway]')"
)
_KINDS: dict[str, EventKind] = {"promoted": "done", "reverted": "failed"}


@dataclass
class _Live:
    """What is known of a canary only while the keeper runs: the traffic of its present step."""

    watch: Watch
    last: dict[Version, Counts] = field(default_factory=dict)
    read: float | None = None
    waiting: str | None = None


class Canaries:
    """The canaries of all models; at most one of each runs. Thread-safe by the fleet's lock."""

    def __init__(self, fleet: Fleet, store: StateStore, statistics: Statistics) -> None:
        self._fleet, self._store, self._statistics = fleet, store, statistics
        self._live: dict[str, _Live] = {}

    def prepare(self, request: CanaryRequest) -> tuple[Run, Desired]:
        """Return a new canary and what is desired for it, without starting it.

        Raises:
            UsageError: it cannot be started; the message says why.
        """
        desired, model = self._fleet.desired, request.model
        if desired.gateway is None:
            raise UsageError(_NO_GATEWAY)
        target = changes.find_model(desired, model)
        running = self._store.canaries.get(model)
        if running is not None and not running.ended:
            raise UsageError(
                f"a canary of {running.name} is running (at {running.weight:g} %). Wait for its "
                f"end, or end it with `vestal canary {model} --abort`"
            )
        _check_version(target, request)
        fixed, default_target = target.canary, target.versions[target.default]
        archive = {"archive": request.archive, "sha256": request.sha256}
        run = Run(
            model=model,
            version=request.version,
            default=target.default,
            # The same workers: at 100 %, it must do what the default version does now.
            target=default_target.model_copy(update=archive),
            default_target=default_target,
            registered=None if fixed is not None else target.versions.get(request.version),
            rules=request.rules,
            sticky=request.sticky or (fixed.sticky if fixed else None),
            user=request.user,
            since=time.time(),
        )
        run = run.noted(run.since, f"{run.name} is loaded, to replace {run.default}")
        return run, states.desire(desired, run)

    def begin(self, run: Run) -> CanaryStatus:
        """Start a canary that was prepared. Raises VestalError if it cannot be stored."""
        self._live.pop(run.model, None)
        self._save(run, by_user=True)
        return self._describe(run)

    def command(self, model: str, command: Command) -> CanaryStatus:
        """Pause, resume or abort the canary of a model.

        Raises:
            UsageError: none is running, or it is paused or not paused already.
        """
        with self._fleet.lock:
            run = self._find(model)
            now = time.time()
            if run.ended:
                raise UsageError(f"no canary of {model} is running; the last one was {run.state}")
            if command == "abort":
                reason = "it was aborted"
                text = f"{run.name} was aborted, and {run.default} gets all requests"
                run = run.changed(now, "aborted", text, reason)
            elif run.state == "promoting":
                raise UsageError(f"{run.name} is becoming the default version already")
            elif run.paused == (command == "pause"):
                raise UsageError(
                    f"{run.name} is {'paused already' if run.paused else 'not paused'}"
                )
            else:
                run = (states.paused if command == "pause" else states.resumed)(run, now)
            self._save(run)
            return self._describe(run)

    def _find(self, model: str) -> Run:
        """Return the canary of a model. Raises UsageError if there was none."""
        run = self._store.canaries.get(model)
        if run is None:
            changes.find_model(self._fleet.desired, model)
            raise UsageError(no_canary(model))
        return run

    def all(self) -> list[CanaryStatus]:
        """Describe the canaries that run, and the last one of each other model."""
        with self._fleet.lock:
            return [self._describe(run) for run in self._store.canaries.values()]

    def step(self, actual: Actual, observed: Mapping[str, Observed]) -> None:
        """Advance all canaries; call it once a second."""
        running = [run for run in self._store.canaries.values() if not run.ended]
        versions = [(run.model, v) for run in running for v in (run.version, run.default)]
        counts: Mapping[Version, Counts] | None = None
        problem = None
        if versions:
            try:
                counts = self._statistics(versions)
            except VestalError as error:
                problem = str(error)
        for name in [run.model for run in running]:
            with self._fleet.lock:
                run = self._store.canaries[name]
                if not run.ended and not self._fleet.stopping:
                    self._step(
                        run, actual.models.get(name, ModelState()), observed, counts, problem
                    )

    def _step(
        self,
        run: Run,
        state: ModelState,
        observed: Mapping[str, Observed],
        counts: Mapping[Version, Counts] | None,
        problem: str | None,
    ) -> None:
        now = time.time()
        found = state.versions.get(run.version)
        # `state` may be older than the run, and than the forgiveness of an earlier rejection.
        rejected = self._fleet.knowledge.state(run.model).rejected
        if not states.is_desired(self._fleet.target(run.model), run):
            self._supersede(run, now)
        elif run.version in rejected:
            self._save(states.reverted(run, rejected[run.version], now))
        elif run.state == "promoting":
            if state.default == run.version == state.serving and not state.settling:
                self._save(run.changed(now, "promoted", f"{run.name} is the default version"))
        elif found is None or not found.verified:
            if run.state != "loading":
                self._save(states.unloaded(run, now))
        elif run.state == "loading":
            if found.ready >= found.workers:
                self._live.pop(run.model, None)
                self._save(states.loaded(run, now))
        elif counts is None:
            self._live_of(run).waiting = problem
        else:
            self._watch(run, state, observed, counts, now)

    def _watch(
        self,
        run: Run,
        state: ModelState,
        observed: Mapping[str, Observed],
        counts: Mapping[Version, Counts],
        now: float,
    ) -> None:
        live = self._live_of(run)
        keys = (run.model, run.version), (run.model, run.default)
        clock, read = time.monotonic(), live.read
        last, live.last, live.read = live.last, {key: counts[key] for key in keys}, clock
        if read is None:  # what was counted before does not belong to the step
            return
        canary, default = (counts[key].since(last[key]) for key in keys)
        before = state.versions.get(run.default)
        live.watch.add(
            Observation(
                seconds=clock - read,
                canary=canary,
                default=default,
                unready=not state.versions[run.version].ready and bool(before and before.ready),
                delay=_batch_delay(observed.get(run.model), run.version),
            )
        )
        verdict = judge(live.watch, run.rules, run.weight, run.slowest_times)
        live.waiting = verdict.reason if verdict.decision == "wait" else None
        after = states.judged(run, verdict, live.watch.step.default.times, now)
        if after is not run:
            if after.step != run.step:
                del self._live[run.model]
            self._save(after)

    def _supersede(self, run: Run, now: float) -> None:
        revisions = self._fleet.revisions.all()
        command = revisions[0].source.command if revisions else ""
        if command == _command(run):  # what is stored does not run
            reason = f"`vestal serve` was started with another state of {run.model}"
        else:
            reason = f"`{command}` has changed what is desired of {run.model}"
        text = f"the canary of {run.name} ended: {reason}"
        self._save(run.changed(now, "superseded", text, reason))

    def _live_of(self, run: Run) -> _Live:
        """Return the traffic of the present step; it is removed when a step begins."""
        return self._live.setdefault(run.model, _Live(Watch(run.rules.every)))

    def _save(self, run: Run, *, by_user: bool = False) -> None:
        """Store a run together with what it desires, and report it."""
        fleet = self._fleet
        desired = states.desire(fleet.desired, run)
        if desired != fleet.desired:
            source = Source(command=_command(run), user=run.user)
            thorough = by_user or fleet.thorough
            fleet.change(desired, source, thorough=thorough, again=by_user, canary=run)
        else:
            self._store.save_canary(run)
        fleet.report(_KINDS.get(run.state, "note"), run.log[-1].text)

    def _describe(self, run: Run) -> CanaryStatus:
        status = CanaryStatus(
            model=run.model,
            version=run.version,
            default=run.default,
            state=run.state,
            ended=run.ended,
            rules=run.rules,
            weight=run.weight,
            reason=run.reason,
            log=run.log,
        )
        live = self._live.get(run.model)
        if run.ended or live is None:
            return status
        step = live.watch.step
        return status.model_copy(
            update={
                "seconds": step.seconds,
                "waiting": live.waiting,
                "traffic": describe_traffic(run.version, run.default, step),
            }
        )


def _check_version(target: ModelTarget, request: CanaryRequest) -> None:
    """Raise UsageError if the version cannot be a canary of the model."""
    name = f"{request.model} {request.version}"
    if request.version == target.default:
        raise UsageError(f"{name} is the default version already")
    fixed, known = target.canary, target.versions.get(request.version)
    if fixed is not None and fixed.version != request.version:
        raise UsageError(
            f"{request.model} {fixed.version} has a fixed share of {fixed.weight:g} % (`canary:` "
            "in serving.yaml). Remove it from the file and run `vestal apply` first"
        )
    if known is not None and known.sha256 != request.sha256:
        raise UsageError(
            f"{name} is already served from {known.archive} (sha256 {known.sha256[:12]}...), and "
            f"{request.archive} has another content (sha256 {request.sha256[:12]}...). Pack it as "
            "another version"
        )


def _command(run: Run) -> str:
    return f"vestal canary {run.name}"


def _batch_delay(observed: Observed | None, version: str) -> float:
    description = observed.versions.get(version) if observed else None
    if description is None or description.batch_size <= 1:
        return 0.0
    return float(description.max_batch_delay)
