"""The steps of a plan. Each brings one version of a model closer to what is desired."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        why: the reason, for people.
        memory: expected change of the memory in use, in bytes; None: unknown, because no worker of
            this archive has been measured yet.
    """

    model: str
    version: str
    why: str
    memory: int | None = 0


@dataclass(frozen=True)
class Register(Step):
    """Register the version and wait until `workers` workers are READY."""

    archive: str = ""
    sha256: str = ""
    workers: int = 1


@dataclass(frozen=True)
class Verify(Step):
    """Wait for READY workers; send the archive's packed sample and the probes to the version."""


@dataclass(frozen=True)
class Switch(Step):
    """Make the version the default.

    Attributes:
        previous: the default until now, if it can be switched back to.
        settle: a Settle step follows. Without one, the version is confirmed at once: it was
            confirmed before, or there is no version to compare it with.
    """

    previous: str | None = None
    settle: bool = True


@dataclass(frozen=True)
class Settle(Step):
    """Compare the new default version with the previous one; switch back if it is worse."""

    previous: str | None = None


@dataclass(frozen=True)
class Scale(Step):
    """Set the number of workers; `workers_before`: until now."""

    workers: int = 1
    workers_before: int = 0


@dataclass(frozen=True)
class Remove(Step):
    """Wait until the version is idle and unregister it."""


@dataclass(frozen=True)
class Problem:
    """Why a version cannot be brought to what is desired (for example, memory)."""

    model: str
    version: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The steps in order, and what prevents others."""

    steps: tuple[Step, ...] = ()
    problems: tuple[Problem, ...] = ()
