"""What runs: a snapshot of TorchServe, together with what the keeper knows about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VersionState:
    """One registered version.

    Attributes:
        archive: file name in the model store.
        sha256: digest of the archive when it was registered.
        workers: number of workers that should run, as TorchServe has it.
        ready: number of READY workers.
        verified: the version passed its sample and its probes in this TorchServe.
        memory: RSS of all its workers, in bytes.
        given_up: TorchServe does not restart its workers any more.
    """

    archive: str
    sha256: str
    workers: int
    ready: int = 0
    verified: bool = False
    memory: int = 0
    given_up: bool = False


@dataclass(frozen=True)
class Previous:
    """The version that was the default before the last switch; `since`: time of that switch."""

    version: str
    since: float


@dataclass(frozen=True)
class ModelState:
    """One model.

    Attributes:
        default: TorchServe's default version; None if no version is registered.
        versions: the registered versions.
        serving: the last default version that was verified; it survives a restart. A new default
            replaces it only after it has been verified.
        serving_archive: archive and digest of `serving`, to register it after a restart.
        previous: kept for a rollback.
        settling: the switch to the default version has not been confirmed yet.
        rejected: reasons by version, for versions that failed; they are not tried again until the
            user changes the desired state or applies it again.
    """

    default: str | None = None
    versions: Mapping[str, VersionState] = field(default_factory=dict)
    serving: str | None = None
    serving_archive: tuple[str, str] | None = None
    previous: Previous | None = None
    settling: bool = False
    rejected: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Actual:
    """All models, and the memory of this machine.

    Attributes:
        now: time of the snapshot, in seconds since 1970.
        memory_free: bytes that new workers may use: the smaller of the machine's and the cgroup's.
        footprints: measured RSS of one worker by the archive's sha256, in bytes.
    """

    models: Mapping[str, ModelState] = field(default_factory=dict)
    now: float = 0.0
    memory_free: int = 0
    footprints: Mapping[str, int] = field(default_factory=dict)
