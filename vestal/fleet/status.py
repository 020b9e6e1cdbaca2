"""What the keeper's API sends: status, revisions, events and plans."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from vestal.fleet.desired import Desired

Phase = Literal["starting", "running", "draining", "stopping"]


class WorkerCounts(BaseModel):
    """Numbers of workers. `given_up`: TorchServe does not restart them any more."""

    desired: int
    ready: int
    starting: int
    given_up: int


class Traffic(BaseModel):
    """Requests of the last minute.

    Rates per second; `error_rate` is the fraction that failed on the server's side. Times in
    seconds, None without requests: `queue` is the mean delay in the queue, `p50` and `p99` are
    quantiles of the handler's time for a batch, from histograms (only for archives by Vestal);
    `mean` is the mean time of a request in TorchServe.
    """

    rate: float = 0.0
    error_rate: float = 0.0
    queue: float | None = None
    mean: float | None = None
    p50: float | None = None
    p99: float | None = None


class VersionStatus(BaseModel):
    """One version. `state`: what the keeper knows of it; `reason`: for `failed` and `rejected`."""

    version: str
    archive: str
    state: Literal["starting", "verifying", "ready", "degraded", "draining", "failed", "rejected"]
    default: bool = False
    reason: str | None = None
    workers: WorkerCounts
    pending: int = 0
    memory: int = 0
    traffic: Traffic = Field(default_factory=Traffic)


class ModelStatus(BaseModel):
    """One model.

    `desired`: the default version that should run. `canary`: the share of its canary, in words.
    `doing`: the current step.
    """

    name: str
    desired: str | None
    default: str | None
    previous: str | None = None
    canary: str | None = None
    required: bool = True
    ready: bool = False
    doing: str | None = None
    problem: str | None = None
    versions: list[VersionStatus] = Field(default_factory=list)


class GatewayStatus(BaseModel):
    """The gateway. `files`: folder of Envoy's configuration; None while it is not running."""

    url: str
    running: bool
    restarts: int = 0
    problem: str | None = None
    files: str | None = None


class Status(BaseModel):
    """The whole server. Memory in bytes; `converged`: nothing is left to do."""

    phase: Phase
    ready: bool
    converged: bool
    revision: int
    models: list[ModelStatus] = Field(default_factory=list)
    memory_used: int = 0
    memory_free: int = 0
    torchserve_restarts: int = 0
    gateway: GatewayStatus | None = None


class Source(BaseModel):
    """Where a change came from. `sha256`: of serving.yaml, if it is the source."""

    command: str
    user: str
    file: str | None = None
    sha256: str | None = None


class Revision(BaseModel):
    """One change of the desired state. `outcome`: None while the keeper is working on it."""

    number: int
    time: float
    source: Source
    desired: Desired
    outcome: Literal["done", "failed", "superseded"] | None = None
    reason: str | None = None


EventKind = Literal[
    "started",
    "progress",
    "done",
    "failed",
    "repair",
    "scale",
    "note",
    "converged",
    "rejected",
]


class RevisionSummary(BaseModel):
    """A revision without its desired state. `changes`: what it changed, one sentence each."""

    number: int
    time: float
    source: Source
    outcome: Literal["done", "failed", "superseded"] | None = None
    reason: str | None = None
    changes: list[str] = Field(default_factory=list)


class Event(BaseModel):
    """One event of the keeper. `number` increases by 1. `revision`: the one it works on.

    `kind`: `started`, `progress`, `done`, `failed` of a step (`step` names it, as in the plan);
    `repair`, `scale` and `note` for what the keeper does by itself; `converged` and `rejected` end
    the work on a revision.
    """

    number: int
    time: float
    kind: EventKind
    revision: int
    model: str | None = None
    version: str | None = None
    step: str | None = None
    text: str


class PlannedStep(BaseModel):
    """One step of a plan, for people.

    `change` is `1.0 -> 2.0` or `1 -> 2 workers`. Memory of all workers in bytes; None: unknown.
    """

    action: Literal["register", "verify", "switch", "settle", "scale", "remove"]
    model: str
    version: str
    change: str
    why: str
    memory_before: int | None
    memory_after: int | None


class PlannedProblem(BaseModel):
    """Why a version cannot be brought to what is desired."""

    model: str
    version: str
    reason: str


class PlanReport(BaseModel):
    """The plan for a desired state, without carrying it out."""

    steps: list[PlannedStep] = Field(default_factory=list)
    problems: list[PlannedProblem] = Field(default_factory=list)
