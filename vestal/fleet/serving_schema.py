"""The keys of serving.yaml. The reference page is generated from the descriptions."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from vestal.fleet.serving_values import (
    Address,
    ArchiveFile,
    ContentType,
    Count,
    Duration,
    FieldName,
    Flag,
    Fraction,
    InputFile,
    Limit,
    Name,
    Percent,
    Port,
    Ratio,
    Retention,
    Size,
    TimeLimit,
    Version,
    expected,
)


class Section(BaseModel):
    """Keys with values. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_bounds(value: Any) -> Any:
    """One number is both bounds."""
    if isinstance(value, dict | WorkersSection):
        return value
    if type(value) is not int or value < 1:
        raise expected("a whole number of at least 1, or {min: 1, max: 2}")
    return {"min": value, "max": value}


def _as_version(value: Any) -> Any:
    return value if isinstance(value, dict | VersionSection) else {"version": value}


def _as_list(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, dict):
        raise expected("{input: FILE}, or a list of them")
    return [value]


class WorkersSection(Section):
    """Bounds of the number of workers; the keeper scales between them."""

    min: Count = Field(1, description="Smallest number of workers.")
    max: Count | None = Field(None, description="Largest number of workers. Default: `min`.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise PydanticCustomError(
                "conflict", f"min ({self.min}) is larger than max ({self.max})"
            )
        return self


class ProbeSection(Section):
    """A request whose response a version must pass before it is served."""

    input: InputFile = Field(
        description="File to send, relative to the project folder. All inputs together have at "
        "most 10 MB."
    )
    content_type: ContentType | None = Field(
        None, description="Content type of the input. Default: by the suffix of the file."
    )
    expect: Any = Field(
        None,
        description="Expected response, or a part of it: only the keys that are given are "
        "compared. Default: any response with status 200.",
    )


class VersionSection(Section):
    """A version that is served in addition to the default version."""

    version: Version = Field(description="Version of the archive, in quotes.")
    archive: ArchiveFile | None = Field(
        None,
        description="File name of the archive in the model store. Default: the archive whose "
        "manifest has the name of the model and the version.",
    )
    workers: Annotated[WorkersSection, BeforeValidator(_as_bounds)] | None = Field(
        None,
        description="Number of workers, or `{min: 1, max: 2}`. Default: `minWorkers` and "
        "`maxWorkers` of the archive, or 1.",
    )
    memory_limit: Size | None = Field(
        None,
        description="Largest resident memory of a worker, such as `2GB`. A worker above it is "
        "replaced when it is idle; a new version whose workers are above it as soon as they have "
        "loaded is rejected. Default: no limit.",
    )


class StickySection(Section):
    """What identifies a user: all requests of a user go to the same version."""

    header: FieldName | None = Field(None, description="Name of a request header, such as x-user.")
    cookie: FieldName | None = Field(
        None, description="Name of a cookie that the application in front sets."
    )

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.header is None) == (self.cookie is None):
            raise PydanticCustomError("conflict", "expected either `header` or `cookie`")
        return self


class CanarySection(VersionSection):
    """A version that gets a share of the requests for `/predictions/MODEL`."""

    weight: Percent = Field(description="Share of the requests, in percent.")
    sticky: StickySection | None = Field(
        None,
        description="What identifies a user: `{header: x-user}` or `{cookie: NAME}`. Requests "
        "without it are assigned at random. Default: every request is assigned at random.",
    )


class ShadowSection(VersionSection):
    """A version that gets copies of requests; its responses are compared and discarded."""

    sample: Percent = Field(
        100, description="Share of the requests for `/predictions/MODEL` to copy, in percent."
    )


class ModelSection(VersionSection):
    """One model. `version` and the keys beside it are those of the default version."""

    also: tuple[Annotated[VersionSection, BeforeValidator(_as_version)], ...] = Field(
        (),
        description="Other versions to serve, each a version or `{version: ..., workers: ...}`.",
    )
    canary: CanarySection | None = Field(
        None, description="A new version that gets a share of the requests. Needs the gateway."
    )
    shadow: ShadowSection | None = Field(
        None, description="A new version that gets copies of requests. Needs the gateway."
    )
    probe: Annotated[tuple[ProbeSection, ...], BeforeValidator(_as_list)] = Field(
        (),
        description="Request, or a list of requests, whose responses a new version must pass "
        "before it is served.",
    )
    ready_timeout: TimeLimit = Field(
        "2m",
        validate_default=True,
        description="Time limit for the workers of a new version to become ready.",
    )
    settle_time: Duration = Field(
        "30s",
        validate_default=True,
        description="Time after a switch in which the new version is compared with the old one.",
    )
    max_error_rate: Fraction = Field(
        "1%",
        validate_default=True,
        description="Highest fraction of requests that may fail on the server's side during "
        'settle_time, such as `"0.5%"`.',
    )
    max_latency_ratio: Ratio = Field(
        2,
        description="Highest ratio of the new version's mean handler time to that of the old one.",
    )
    keep_previous: Retention = Field(
        0,
        description="Time for which the old version stays loaded, so that a rollback takes effect "
        "at once: a duration, `forever` (until the next switch), or 0.",
    )
    required: Flag = Field(True, description="Whether the server is ready only with this model.")


class TlsSection(Section):
    """Files of the certificate; they are read again when they change."""

    certificate: InputFile = Field(
        description="PEM file with the certificate, followed by its intermediate certificates."
    )
    key: InputFile = Field(description="PEM file with the private key.")


class GatewaySection(Section):
    """The gateway: the address for callers outside this machine."""

    address: Address = Field("127.0.0.1", description="IP address to listen on.")
    port: Port = Field(8000, description="Port to listen on; 0 chooses a free one.")
    tls: TlsSection | None = Field(
        None, description="Files of the certificate. Default: HTTP without encryption."
    )
    api_keys: InputFile | None = Field(
        None,
        description="File with a key for each client (mode 0600); it is read again when it "
        "changes. Default: no key is needed.",
    )
    anonymous: Flag = Field(
        False,
        description="Allow an `address` that other machines reach without `api_keys`.",
    )
    max_body: Size | None = Field(
        None,
        description="Largest request body. Default: `max_request_size` of config.properties, "
        "or 6.5 MB.",
    )
    max_connections: Limit = Field(1000, description="Largest number of open connections.")
    rate_limit: Limit | None = Field(
        None,
        description="Requests per second of one client: of a key or, without `api_keys`, of an "
        "IP address. Default: no limit.",
    )
    header_timeout: TimeLimit = Field(
        "10s", validate_default=True, description="Time limit for the headers of a request."
    )
    body_timeout: TimeLimit = Field(
        "30s", validate_default=True, description="Time limit for a whole request."
    )
    response_timeout: TimeLimit = Field(
        "2m",
        validate_default=True,
        description="Longest time without a byte of the response.",
    )

    @model_validator(mode="after")
    def _check_access(self) -> Self:
        local = ipaddress.ip_address(self.address).is_loopback
        if not local and self.api_keys is None and not self.anonymous:
            raise PydanticCustomError(
                "conflict",
                f"other machines reach address {self.address}: add `api_keys: FILE`, or "
                "`anonymous: true` if anybody may call the models",
            )
        return self


class ServingSection(Section):
    """The whole file."""

    models: dict[Name, ModelSection] = Field(description="The models to serve, by name.")
    gateway: GatewaySection | None = Field(
        None, description="Settings of the gateway. Default: no gateway."
    )


SECTIONS: dict[str, type[Section]] = {
    "workers": WorkersSection,
    "probe": ProbeSection,
    "also": VersionSection,
    "canary": CanarySection,
    "sticky": StickySection,
    "shadow": ShadowSection,
    "gateway": GatewaySection,
    "tls": TlsSection,
}
"""Sections by key."""
