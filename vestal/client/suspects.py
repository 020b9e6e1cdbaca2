"""Inputs that may be what killed a worker: of each model one at a time is sent again.

"Worker died." comes to every request of the batch, and nobody knows which one it was for.
Sent again together they could share a batch again: the same input would kill the next worker, and
its neighbours would be blamed twice. So of each model one suspect at a time is on its way.
"""

from __future__ import annotations

import math
from threading import Lock

from vestal.client.deadline import Deadline
from vestal.client.steps import Pause, Steps

TURN = 0.01
"""Seconds between two looks of a suspect at whether it is its turn."""
PATIENCE = 30.0
"""Seconds that a suspect without a deadline waits for its turn."""


class Suspects:
    """Inputs that may be what killed a worker; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._on_their_way: set[str] = set()

    def enter(self, model: str) -> bool:
        """May a suspect of this model go now?"""
        with self._lock:
            if model in self._on_their_way:
                return False
            self._on_their_way.add(model)
            return True

    def turn(self, model: str, deadline: Deadline) -> Steps[bool]:
        """Waits until no other suspect is on its way, or half of the time is gone: then False."""
        left = deadline.remaining() / 2
        if left == math.inf:
            left = PATIENCE
        waiting = deadline.elapsed + left
        while not self.enter(model):
            if deadline.elapsed >= waiting:
                return False
            yield Pause(TURN)
        return True

    def leave(self, model: str) -> None:
        with self._lock:
            self._on_their_way.discard(model)
