"""Typed responses of the management API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

READY = "READY"
"""The status of a worker that serves. In other states, even while it loads, it is UNLOADING."""


@dataclass(frozen=True)
class ModelInfo:
    """One served version. `archive`: its file name in the model store."""

    name: str
    version: str
    default: bool
    archive: str


@dataclass(frozen=True)
class Worker:
    """One worker. `pid`: None while it has no process."""

    id: str
    status: str
    pid: int | None

    @property
    def ready(self) -> bool:
        return self.status == READY


@dataclass(frozen=True)
class ModelDescription:
    """The current state of one version.

    `queue_pending`: requests that wait in the queue. `queue_remaining`: free places in the
    queue. `max_batch_delay` in milliseconds, `response_timeout` in seconds.
    `customized`: the handler's own description, if requested. `raw`: TorchServe's whole response.
    """

    name: str
    version: str
    archive: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: int
    workers: tuple[Worker, ...]
    queue_pending: int
    queue_remaining: int
    customized: Any = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ready_workers(self) -> tuple[Worker, ...]:
        return tuple(worker for worker in self.workers if worker.ready)

    @property
    def ready(self) -> bool:
        """Whether all workers that should run are READY, and there is at least one."""
        ready = len(self.ready_workers)
        return ready >= max(1, self.min_workers) and ready == len(self.workers)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> ModelDescription:
        """Raises KeyError or TypeError unless it is a description from TorchServe."""
        queue = raw.get("jobQueueStatus") or {}
        return cls(
            name=raw["modelName"],
            version=raw["modelVersion"],
            archive=raw["modelUrl"],
            min_workers=_whole(raw["minWorkers"]),
            max_workers=_whole(raw["maxWorkers"]),
            batch_size=_whole(raw["batchSize"]),
            max_batch_delay=_whole(raw["maxBatchDelay"]),
            response_timeout=_whole(raw["responseTimeout"]),
            workers=tuple(_worker(worker) for worker in raw["workers"]),
            queue_pending=_whole(queue.get("pendingRequests", 0)),
            queue_remaining=_whole(queue.get("remainingCapacity", 0)),
            customized=raw.get("customizedMetadata"),
            raw=raw,
        )


def _whole(number: Any) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{number!r} is not a whole number")
    return number


def _worker(raw: Mapping[str, Any]) -> Worker:
    pid = raw.get("pid", -1)
    return Worker(raw["id"], raw["status"], pid if pid > 0 else None)
