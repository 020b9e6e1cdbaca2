"""The states of a canary, and what is desired in each.

    loading ─► running, at each step ─► promoting ─► promoted
       ▲           │  ▲          │          │
       └───────────┤  │          ▼          ▼
                   ▼  │      reverted, aborted, superseded
                  paused

In `loading`, the version is not registered or not verified yet, or not any more after a restart. In
`promoting`, it is desired as the default version, and the keeper switches to it. A canary is
`superseded` when something else changes what it has desired.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vestal.fleet.canary.counts import Times
from vestal.fleet.canary.judging import Rules, Verdict, is_slower
from vestal.fleet.desired import Canary, Desired, ModelTarget, VersionTarget
from vestal.gateway.settings import Sticky

State = Literal[
    "loading",
    "running",
    "paused",
    "promoting",
    "promoted",
    "reverted",
    "aborted",
    "superseded",
]
ENDED = ("promoted", "reverted", "aborted", "superseded")
_MOST_ENTRIES = 200


class Entry(BaseModel):
    """What happened to a canary; `time` in seconds since 1970."""

    time: float
    text: str


class Run(BaseModel):
    """One canary of a model; it is stored with every change.

    Attributes:
        default: the default version that it is compared with.
        target, default_target: archives and workers of both.
        registered: the target of the version before, if it was desired in addition to the default.
        user: who has started it.
        step: index of the present step.
        paused: it may not go on; it is watched nevertheless.
        since: time at which the state or the step began, in seconds since 1970.
        reason: why it ended as it did.
        slowest_times: response times of the default version, of the step in which its p99 was
            highest.
    """

    model: str
    version: str
    default: str
    target: VersionTarget
    default_target: VersionTarget
    registered: VersionTarget | None = None
    rules: Rules = Rules()
    sticky: Sticky | None = None
    user: str = ""
    state: State = "loading"
    step: int = 0
    paused: bool = False
    since: float
    reason: str | None = None
    slowest_times: Times | None = None
    log: list[Entry] = Field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def weight(self) -> float:
        """Percentage of the requests in the present step."""
        return self.rules.steps[self.step]

    @property
    def name(self) -> str:
        return f"{self.model} {self.version}"

    def noted(self, now: float, text: str) -> Run:
        """Return the run with another entry in its log."""
        log = [*self.log, Entry(time=now, text=text)][-_MOST_ENTRIES:]
        return self.model_copy(update={"log": log})

    def changed(self, now: float, state: State, text: str, reason: str | None = None) -> Run:
        """Return the run in another state."""
        update = {"state": state, "since": now, "reason": reason}
        return self.noted(now, text).model_copy(update=update)


def loaded(run: Run, now: float) -> Run:
    """The version is registered and verified: the present step begins, maybe again."""
    state: State = "paused" if run.paused else "running"
    return run.changed(now, state, f"{run.name} gets {run.weight:g} % of the requests")


def unloaded(run: Run, now: float) -> Run:
    """The version is not registered or not verified any more, after a restart."""
    return run.changed(now, "loading", f"{run.name} is loaded again, and its step starts over")


def paused(run: Run, now: float) -> Run:
    """Stay at the present step."""
    state: State = "paused" if run.state == "running" else run.state
    text = f"paused at {run.weight:g} %"
    return run.changed(now, state, text).model_copy(update={"paused": True})


def resumed(run: Run, now: float) -> Run:
    """Go on from the present step."""
    state: State = "running" if run.state == "paused" else run.state
    text = f"resumed at {run.weight:g} %"
    return run.changed(now, state, text).model_copy(update={"paused": False})


def judged(run: Run, verdict: Verdict, default_times: Times, now: float) -> Run:
    """Return the run after a verdict about its present step; the same run if nothing changes."""
    if verdict.decision == "worse":
        return reverted(run, verdict.reason, now)
    if verdict.decision == "wait" or run.state != "running":
        return run
    slowest = run.slowest_times
    if slowest is None or is_slower(default_times, slowest):
        run = run.model_copy(update={"slowest_times": default_times})
    if run.step + 1 < len(run.rules.steps):
        weight = run.rules.steps[run.step + 1]
        text = f"{run.name} gets {weight:g} % of the requests, after {verdict.reason}"
        return run.changed(now, "running", text).model_copy(update={"step": run.step + 1})
    text = f"{run.name} becomes the default version, after {verdict.reason}"
    return run.changed(now, "promoting", text)


def reverted(run: Run, reason: str, now: float) -> Run:
    """The version is not good enough: the default version gets all requests again."""
    text = f"{run.name} is sent back, and {run.default} gets all requests: {reason}"
    return run.changed(now, "reverted", text, reason)


def desire(desired: Desired, run: Run) -> Desired:
    """Return what is desired in the run's state; what others desire is kept."""
    target = desired.models.get(run.model)
    if target is None or run.state in ("promoted", "superseded"):
        return desired
    versions = dict(target.versions)
    if run.state == "promoting":
        versions.setdefault(run.version, run.target)
        versions.pop(run.default, None)
        changed = target.with_versions(run.version, versions)
    elif run.ended:
        versions.setdefault(run.default, run.default_target)
        if run.registered is None:
            versions.pop(run.version, None)
        else:
            versions[run.version] = run.registered
        changed = target.with_versions(run.default, versions).model_copy(update={"canary": None})
    else:
        canary = Canary(version=run.version, weight=run.weight, sticky=run.sticky)
        versions.setdefault(run.version, run.target)
        changed = target.model_copy(update={"versions": versions, "canary": canary})
    return desired.model_copy(update={"models": {**desired.models, run.model: changed}})


def is_desired(target: ModelTarget | None, run: Run) -> bool:
    """Whether what is desired of the model is still what the run has desired."""
    if target is None or run.version not in target.versions:
        return False
    if run.state == "promoting":
        return target.default == run.version
    canary = target.canary
    return (
        target.default == run.default
        and canary is not None
        and (canary.version, canary.weight) == (run.version, run.weight)
    )
