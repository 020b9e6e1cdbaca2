"""Recent responses of one model: how long they took, and which request was sent last."""

from __future__ import annotations

import time
from collections import deque
from threading import Lock

REMEMBERED = 100
"""Responses remembered for each operation, model and version."""
SCOUT_INTERVAL = 5.0
"""Seconds between two scouts, unless the first one gets a response."""


class ResponseHistory:
    """The responses of one operation, model and version; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._last_sent = 0.0
        self._scouted = -SCOUT_INTERVAL

    def record(self, sent: float) -> None:
        """Record a response that arrived now; `sent`: monotonic time of its request."""
        with self._lock:
            self._seconds.append(time.monotonic() - sent)
            self._last_sent = max(self._last_sent, sent)

    def has_later_response(self, sent: float) -> bool:
        """Whether a request that was sent after `sent` has a response."""
        return self._last_sent > sent

    def durations(self) -> list[float]:
        """Return the seconds that recent responses took, shortest first."""
        with self._lock:
            return sorted(self._seconds)

    def allow_scout(self) -> bool:
        """Whether a copy may be sent although no later request has a response."""
        with self._lock:
            now = time.monotonic()
            if self._last_sent < self._scouted and now - self._scouted < SCOUT_INTERVAL:
                return False
            self._scouted = now
            return True
