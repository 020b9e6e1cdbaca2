"""What should run. Commands write it, the keeper reads it and keeps it in `.vestal/state/`.

These are the resolved targets: archives of the model store with their digests. What a user writes,
`serving.yaml`, is read by `vestal.fleet.serving_file`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Workers(_Part):
    """Bounds of a version's number of workers. The keeper scales between them by queue delay."""

    min: Annotated[int, Field(ge=0)] = 1
    max: Annotated[int, Field(ge=0)] = 1


class Probe(_Part):
    """A request that a version must answer as expected before it is served.

    `name`: file name of the input, for messages. `expect`: the expected response, or a part of it
    (only the keys that are given are compared); None: any response with status 200.
    """

    name: str
    body: Base64Bytes
    content_type: str = "application/octet-stream"
    expect: Any = None


class SwapPolicy(_Part):
    """How a new default version replaces the old one.

    `ready_seconds`: time limit for its workers to become READY and for its checks.
    `settle_seconds`: time after the switch in which the new version is compared with the old one.
    `max_error_rate`: highest fraction of requests that fail on the server's side, in that time.
    `max_latency_ratio`: highest ratio of its mean handler time to the old version's.
    `keep_previous_seconds`: time for which the old version stays registered, with its workers, so
    that a rollback takes effect at once; None: until the next swap.
    """

    ready_seconds: Annotated[float, Field(gt=0)] = 120.0
    settle_seconds: Annotated[float, Field(ge=0)] = 30.0
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    max_latency_ratio: Annotated[float, Field(gt=1)] = 2.0
    keep_previous_seconds: Annotated[float, Field(ge=0)] | None = 0.0


class VersionTarget(_Part):
    """One version. `archive`: its file name in the model store. `sha256`: of that file.

    `memory_limit`: bytes of one worker (its RSS); a worker above it is replaced when it is idle.
    """

    archive: str
    sha256: str
    workers: Workers = Workers()
    memory_limit: Annotated[int, Field(gt=0)] | None = None


class ModelTarget(_Part):
    """The versions of one model. `default`: the version at `/predictions/{model}`.

    `required`: the server is ready only when the default version is.
    """

    default: str
    versions: dict[str, VersionTarget]
    probes: tuple[Probe, ...] = ()
    swap: SwapPolicy = SwapPolicy()
    required: bool = True


class Desired(_Part):
    """All models that should run, by name."""

    models: dict[str, ModelTarget] = Field(default_factory=dict)
