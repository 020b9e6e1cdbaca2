"""What a client knows of recent answers: how long they took, which request was sent last."""

from __future__ import annotations

import time
from collections import deque
from threading import Lock

ANSWERS = 100
"""Answers that are remembered, for each operation, model and version."""
SCOUTING = 5.0
"""Seconds between two scouts, unless the first one is answered."""


class Recent:
    """The answers of one operation, model and version; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seconds: deque[float] = deque(maxlen=ANSWERS)
        self._latest = 0.0
        self._scouted = -SCOUTING

    def answered(self, sent: float) -> None:
        """A request is answered now; `sent`: when it was sent, by the monotonic clock."""
        with self._lock:
            self._seconds.append(time.monotonic() - sent)
            self._latest = max(self._latest, sent)

    def overtook(self, sent: float) -> bool:
        """Is a request answered that was sent later than `sent`?"""
        return self._latest > sent

    def durations(self) -> list[float]:
        """Seconds that the recent answers took, the shortest first."""
        with self._lock:
            return sorted(self._seconds)

    def scout(self) -> bool:
        """May a copy go although no later request is answered? Then it is the only one for now."""
        with self._lock:
            now = time.monotonic()
            if self._latest < self._scouted and now - self._scouted < SCOUTING:
                return False
            self._scouted = now
            return True
