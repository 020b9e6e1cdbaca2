"""The load of every version over time, and the changes of its number of workers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection

from vestal.client import ModelDescription
from vestal.fleet.desired import Workers
from vestal.fleet.scaling import LoadSample, ScalingPolicy, decide
from vestal.fleet.steps import Scale
from vestal.fleet.traffic import Version, Window

_KEPT = 600
"""Samples of a version; the longest time that `ScalingPolicy` looks at is shorter."""


class Autoscaler:
    """Keeps a history of each version with `min` below `max`; not thread-safe."""

    def __init__(self, policy: ScalingPolicy | None = None) -> None:
        self._policy = policy or ScalingPolicy()
        self._histories: dict[Version, deque[LoadSample]] = {}
        self._running: dict[Version, int] = {}

    def step(self, workers: Workers, description: ModelDescription, window: Window) -> Scale | None:
        """Add the load since the last call, and return the change that it calls for.

        Args:
            workers: bounds of the version.
            description: the version now.
            window: its traffic; only the last interval is used.
        """
        key = description.name, description.version
        running = len(description.workers)
        if workers.min == workers.max:
            return None
        if self._running.get(key) != running:  # the load before says nothing about this number
            self._running[key] = running
            self._histories[key] = deque(maxlen=_KEPT)
        history = self._histories.setdefault(key, deque(maxlen=_KEPT))
        history.append(load_sample(time.monotonic(), description, window))
        ready = len(description.ready_workers)
        delay = description.max_batch_delay / 1000
        number = decide(list(history), workers, running, ready, delay, self._policy)
        if number is None or number == running:
            return None
        return Scale(
            *key, why=_why(history[-1], number > running), workers=number, workers_before=running
        )

    def keep_only(self, model: str, versions: Collection[str]) -> None:
        """Forget the other versions of a model."""
        for key in list(self._histories):
            if key[0] == model and key[1] not in versions:
                del self._histories[key], self._running[key]


def load_sample(now: float, description: ModelDescription, window: Window) -> LoadSample:
    """Summarize the last interval of a version."""
    if not window.intervals:
        return LoadSample(now, None, description.queue_pending, 0.0)
    last = window.intervals[-1]
    counted = last.counted
    answered = counted.requests or max(counted.arrivals - counted.failures, 0.0)
    # Of a foreign archive, only the time of requests is known, in which a batch counts repeatedly.
    busy = counted.handler or max(counted.latency - counted.queue, 0.0)
    queue = counted.queue / answered if answered and counted.latency else None
    return LoadSample(now, queue, description.queue_pending, busy / last.seconds)


def _why(sample: LoadSample, more: bool) -> str:
    if not more:
        return "fewer workers are enough for the load of the last minutes"
    if sample.queue is None:
        return f"{sample.pending} requests wait in the queue"
    return f"requests wait {sample.queue * 1000:.0f} ms in the queue"
