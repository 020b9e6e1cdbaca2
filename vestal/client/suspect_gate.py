"""Retry inputs that may have killed a worker one at a time per model.

TorchServe sends "Worker died." to every request of the batch, and the client cannot know whose
input was the cause. Retried together, they could share a batch again: the same input would kill
the next worker and the others would be blamed twice.
"""

from __future__ import annotations

import math
from threading import Lock

from vestal.client.deadline import Deadline
from vestal.client.flow import Flow, Pause

POLL = 0.01
"""Seconds between two attempts to acquire the slot."""
PATIENCE = 30.0
"""Seconds that a call without a deadline waits for the slot."""


class SuspectGate:
    """One slot per model; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken: set[str] = set()

    def try_acquire(self, model: str) -> bool:
        """Acquire the model's slot if it is free."""
        with self._lock:
            if model in self._taken:
                return False
            self._taken.add(model)
            return True

    def acquire_slot(self, model: str, deadline: Deadline) -> Flow[bool]:
        """Wait for the model's slot; False after half of the remaining time."""
        left = deadline.remaining() / 2
        if left == math.inf:
            left = PATIENCE
        end = deadline.elapsed + left
        while not self.try_acquire(model):
            if deadline.elapsed >= end:
                return False
            yield Pause(POLL)
        return True

    def release_slot(self, model: str) -> None:
        with self._lock:
            self._taken.discard(model)
