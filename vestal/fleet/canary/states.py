"""The states of a canary, and what is desired in each.

    loading ──► running ──► ... ──► running at 100 % ──► promoting ──► promoted
       │         │   ▲                                       │
       │         ▼   │                                       │
       │        paused                                       │
       └─────────┴──► reverted, aborted, superseded ◄────────┘

In `loading`, the version is not registered or not verified, at first or after a restart. In
`promoting`, it is desired as the default version, and the keeper switches to it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vestal.fleet.canary.counts import Times
from vestal.fleet.canary.judging import Rules, Verdict
from vestal.fleet.desired import Canary, Desired, ModelTarget, Sticky, VersionTarget

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
        target: the canary's archive and workers.
        registered: the version was desired before, in addition to the default version.
        step: index of the present step.
        paused: it may not go on; it is watched nevertheless.
        since: time at which the state or the step began, in seconds since 1970.
        revision: the last one that it made.
        reason: why it ended as it did.
        first_times: response times of the default version in the first step.
    """

    model: str
    version: str
    default: str
    target: VersionTarget
    registered: bool
    rules: Rules
    sticky: Sticky | None = None
    state: State = "loading"
    step: int = 0
    paused: bool = False
    since: float
    revision: int = 0
    reason: str | None = None
    first_times: Times | None = None
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
    """The version is registered and verified: its present step begins, maybe again."""
    state: State = "paused" if run.paused else "running"
    return run.changed(now, state, f"{run.name} gets {run.weight:g} % of the requests")


def unloaded(run: Run, now: float) -> Run:
    """The version is not registered or not verified any more, after a restart of TorchServe."""
    return run.changed(now, "loading", f"{run.name} is loaded again; its step begins again then")


def judged(run: Run, verdict: Verdict, default_times: Times, now: float) -> Run:
    """Return the run after a verdict about its present step; the same run if nothing changes."""
    if verdict.decision == "worse":
        return reverted(run, verdict.reason, now)
    if verdict.decision == "wait" or run.state != "running":
        return run
    if run.step == 0:
        run = run.model_copy(update={"first_times": default_times})
    if run.step + 1 < len(run.rules.steps):
        weight = run.rules.steps[run.step + 1]
        text = f"{run.name} gets {weight:g} % of the requests now: {verdict.reason}"
        return run.changed(now, "running", text).model_copy(update={"step": run.step + 1})
    text = f"{run.name} becomes the default version: {verdict.reason}"
    return run.changed(now, "promoting", text)


def reverted(run: Run, reason: str, now: float) -> Run:
    """The canary is not good enough."""
    text = f"{run.default} gets all requests again: {reason}"
    return run.changed(now, "reverted", f"{run.name} was sent back; {text}", reason)


def desire(desired: Desired, run: Run) -> Desired:
    """Return what is desired in the run's state, besides what others desire."""
    target = desired.models[run.model]
    versions = dict(target.versions)
    canary, default = None, run.default
    if run.state == "promoting":
        default = run.version
        versions.pop(run.default, None)
    elif run.ended:
        if not run.registered:
            versions.pop(run.version, None)
    else:
        versions = {**versions, run.version: run.target}
        canary = Canary(version=run.version, weight=run.weight, sticky=run.sticky)
    update = {"versions": versions, "default": default, "canary": canary}
    models = {**desired.models, run.model: target.model_copy(update=update)}
    return desired.model_copy(update={"models": models})


def is_desired(target: ModelTarget | None, run: Run) -> bool:
    """Whether the model is still desired as the run has it, by others, too."""
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
