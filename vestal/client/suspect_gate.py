"""Retry inputs that may have killed a worker one at a time per model.

TorchServe sends "Worker died." to every request of the batch, and the client cannot know which
input was the cause. Retried together, they could share a batch again: the input would kill another
worker, and the other calls would use up their only retry without being the cause.
"""

from __future__ import annotations

import math
from threading import Lock

from vestal.client.deadline import Deadline
from vestal.client.flow import Flow, Pause

POLL = 0.01  # seconds between two attempts to acquire the slot
PATIENCE = 30.0  # seconds that a call without a deadline waits for the slot


class SuspectGate:
    """One slot per model; thread-safe."""

    def __init__(self) -> None:
        self._slots: dict[str, Lock] = {}

    def acquire_slot(self, model: str, deadline: Deadline) -> Flow[bool]:
        """Wait for the model's slot; False after half of the remaining time."""
        left = deadline.remaining() / 2
        if left == math.inf:
            left = PATIENCE
        end = deadline.elapsed + left
        slot = self._slots.setdefault(model, Lock())  # atomic
        while not slot.acquire(blocking=False):
            if deadline.elapsed >= end:
                return False
            yield Pause(POLL)
        return True

    def release_slot(self, model: str) -> None:
        self._slots[model].release()
