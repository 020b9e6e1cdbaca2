"""The keys of serving.yaml. The reference page is generated from the descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from vestal.fleet.serving_values import (
    ArchiveFile,
    ContentType,
    Count,
    Duration,
    Flag,
    Fraction,
    InputFile,
    Name,
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


class ModelSection(VersionSection):
    """One model. `version` and the keys beside it are those of the default version."""

    also: tuple[Annotated[VersionSection, BeforeValidator(_as_version)], ...] = Field(
        (),
        description="Other versions to serve, each a version or `{version: ..., workers: ...}`.",
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


class ServingSection(Section):
    """The whole file."""

    models: dict[Name, ModelSection] = Field(description="The models to serve, by name.")


SECTIONS: dict[str, type[Section]] = {
    "workers": WorkersSection,
    "probe": ProbeSection,
    "also": VersionSection,
}
"""Sections of a model by key."""
