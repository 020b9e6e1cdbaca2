"""What should run. Commands write it, the keeper reads it and keeps it in `.vestal/state/`.

These are the resolved targets: archives of the model store with their digests. What a user writes,
`serving.yaml`, is read by `vestal.fleet.serving_file`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from vestal.gateway.settings import Gateway, Sticky

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}$")]
"""A model's name or version; it becomes part of a URL."""

# TorchServe gets a file name in the model store. If it gets a URL, it deletes the archive when the
# model is unregistered.
ArchiveName = Annotated[str, Field(pattern=r"^[^./\\:\x00-\x1f][^/\\:\x00-\x1f]{0,254}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Workers(_Part):
    """Bounds of a version's number of workers. The keeper scales between them by queue delay."""

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max})")
        return self


class Probe(_Part):
    """A request that a version must answer as expected before it is served.

    `name`: file name of the input, for messages. `expect`: the expected response, or a part of it
    (only the keys that are given are compared); None: any response with status 200.
    """

    name: str
    body: Base64Bytes
    content_type: str = "application/octet-stream"
    expect: Any = None

    @classmethod
    def of(cls, name: str, body: bytes, content_type: str, expect: Any = None) -> Self:
        """Make a probe from the bytes of its body; the constructor expects them in base64."""
        encoded = base64.b64encode(body)
        return cls(name=name, body=encoded, content_type=content_type, expect=expect)


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

    archive: ArchiveName
    sha256: Digest
    workers: Workers = Workers()
    memory_limit: Annotated[int, Field(gt=0)] | None = None


Percent = Annotated[float, Field(ge=0, le=100)]


class Canary(_Part):
    """A version that gets a share of the requests for `/predictions/{model}`.

    `weight`: percent. `sticky`: None assigns every request at random.
    """

    version: Name
    weight: Percent
    sticky: Sticky | None = None


class Shadow(_Part):
    """A version that gets copies of requests; `sample`: percent of them."""

    version: Name
    sample: Percent = 100.0


class ModelTarget(_Part):
    """The versions of one model. `default`: the version at `/predictions/{model}`.

    The versions of `canary` and `shadow` are among `versions`, and neither is the default.
    `required`: the server is ready only when the default version is.
    """

    default: Name
    versions: dict[Name, VersionTarget]
    canary: Canary | None = None
    shadow: Shadow | None = None
    probes: tuple[Probe, ...] = ()
    swap: SwapPolicy = SwapPolicy()
    required: bool = True

    @model_validator(mode="after")
    def _check_default(self) -> Self:
        if self.default not in self.versions:
            raise ValueError(
                f"the default version {self.default} is not among the versions "
                f"({', '.join(self.versions) or 'none'})"
            )
        for role, part in (("canary", self.canary), ("shadow", self.shadow)):
            if part and (part.version not in self.versions or part.version == self.default):
                raise ValueError(
                    f"the {role} is version {part.version}; expected a version other than the "
                    f"default version {self.default} among {', '.join(self.versions)}"
                )
        return self

    def with_versions(self, default: str, versions: Mapping[str, VersionTarget]) -> ModelTarget:
        """Return this model with other versions.

        A canary or shadow ends when its version is removed or becomes the default.
        """
        canary, shadow = (
            part if part and part.version in versions and part.version != default else None
            for part in (self.canary, self.shadow)
        )
        changed = {"default": default, "versions": dict(versions)}
        return self.model_copy(update={**changed, "canary": canary, "shadow": shadow})


class Desired(_Part):
    """All models that should run, by name, and the gateway in front of them."""

    models: dict[Name, ModelTarget] = Field(default_factory=dict)
    gateway: Gateway | None = None

    @model_validator(mode="after")
    def _check_gateway(self) -> Self:
        for name, model in self.models.items():
            if self.gateway is None and (model.canary or model.shadow):
                raise ValueError(f"{name} has a canary or a shadow, but there is no gateway")
        return self
