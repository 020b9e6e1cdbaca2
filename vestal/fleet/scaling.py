"""Decide the number of workers of a version, by the delay in its queue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vestal.fleet.desired import Workers


@dataclass(frozen=True)
class ScalingPolicy:
    """When workers are added and removed.

    Attributes:
        up_delay: delay in the queue that is too long, in seconds, in addition to maxBatchDelay.
        up_samples: number of successive samples with such a delay.
        down_seconds: time for which one worker fewer would have been enough.
        down_load: the load that the remaining workers may have had in that time, as a fraction.
    """

    up_delay: float = 0.1
    up_samples: int = 5
    down_seconds: float = 300.0
    down_load: float = 0.5


@dataclass(frozen=True)
class LoadSample:
    """The load of a version in one interval.

    Attributes:
        time: end of the interval, from a monotonic clock, in seconds.
        queue: mean delay in the queue, in seconds; None if no request was answered.
        pending: requests in the queue at the end.
        busy: mean number of busy workers: the handler's time divided by the length of the interval.
    """

    time: float
    queue: float | None
    pending: int
    busy: float


def decide(
    history: Sequence[LoadSample],
    workers: Workers,
    running: int,
    ready: int,
    max_batch_delay: float,
    policy: ScalingPolicy | None = None,
) -> int | None:
    """Return the number of workers that the version should have; None to change nothing.

    It changes by one. After a change, the caller starts a new history.

    Args:
        history: samples since the last change, oldest first.
        running: number of workers now; `ready`: how many of them are READY.
        max_batch_delay: of the version, in seconds; a lone request waits for it in the queue.
    """
    policy = policy or ScalingPolicy()
    if running < workers.min:
        return workers.min
    if running > workers.max:
        return workers.max
    if ready < running or not history:
        return None  # a worker that starts takes CPU time, which also delays requests
    limit = max_batch_delay + policy.up_delay
    recent = history[-policy.up_samples :]
    if len(recent) >= policy.up_samples and all(_is_delayed(sample, limit) for sample in recent):
        return running + 1 if running < workers.max else None
    if running > workers.min:
        end = history[-1].time
        quiet = [sample for sample in history if sample.time >= end - policy.down_seconds]
        capacity = (running - 1) * policy.down_load
        if (
            end - history[0].time >= policy.down_seconds
            and not any(_is_delayed(sample, limit) for sample in quiet)
            and math.fsum(sample.busy for sample in quiet) / len(quiet) <= capacity
        ):
            return running - 1
    return None


def _is_delayed(sample: LoadSample, limit: float) -> bool:
    if sample.queue is None:
        return sample.pending > 0  # nothing was answered
    return sample.queue > limit
