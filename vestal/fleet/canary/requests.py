"""What the keeper's API receives and sends about canaries."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vestal.fleet.canary.judging import Rules, Traffic
from vestal.fleet.canary.states import Entry, State
from vestal.fleet.desired import ArchiveName, Digest, Name
from vestal.gateway.settings import Sticky

Command = Literal["pause", "resume", "abort"]


class CanaryRequest(BaseModel):
    """Start a canary. `archive`, `sha256`: of the version; `user`: for the history."""

    model_config = ConfigDict(extra="forbid")

    model: Name
    version: Name
    archive: ArchiveName
    sha256: Digest
    rules: Rules = Rules()
    sticky: Sticky | None = None
    user: str = ""


class VersionTraffic(BaseModel):
    """Requests of one version in the present step; `p99` in seconds, None without responses."""

    version: str
    requests: int = 0
    failures: int = 0
    p99: float | None = None


class CanaryStatus(BaseModel):
    """A canary that runs, or the last one of a model.

    `weight`: percentage of the requests. `seconds`: time since its step began. `waiting`: what it
    waits for. `reason`: why it ended. `log`: what happened, oldest first.
    """

    model: str
    version: str
    default: str
    state: State
    ended: bool
    rules: Rules
    weight: float
    seconds: float = 0.0
    waiting: str | None = None
    reason: str | None = None
    traffic: list[VersionTraffic] = Field(default_factory=list)
    log: list[Entry] = Field(default_factory=list)


def describe_traffic(version: str, default: str, step: Traffic) -> list[VersionTraffic]:
    """Describe the traffic of the canary and of the default version."""
    return [
        VersionTraffic(
            version=name,
            requests=counts.requests,
            failures=counts.failures,
            p99=counts.times.quantile(0.99) / 1000 if counts.times.count else None,
        )
        for name, counts in ((version, step.canary), (default, step.default))
    ]


def no_canary(model: str) -> str:
    """Return the message for a model without a canary."""
    return f"there is no canary of {model}; `vestal canary {model} VERSION` starts one"
