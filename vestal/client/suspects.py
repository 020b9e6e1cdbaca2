"""Inputs that may be what killed a worker are tried again one at a time.

"Worker died." comes to every request of the batch, and nobody knows which one it was for. Sent
again together they could share a batch again: the same input would kill the next worker, and its
neighbours would be blamed twice. So of each model one suspect at a time is on its way.
"""

from __future__ import annotations

from threading import Lock

POLL = 0.01
"""Seconds between two looks at whether it is one's turn."""
PATIENCE = 30.0
"""Seconds that a call without a deadline waits for its turn."""


class Suspects:
    """Thread-safe; one for each client."""

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

    def leave(self, model: str) -> None:
        with self._lock:
            self._on_their_way.discard(model)
