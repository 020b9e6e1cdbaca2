"""How much retrying a client may do: so that an outage is not made worse.

A client whose every call is tried again and again multiplies the load of a server that is down.
So retries draw on a budget: `FLOOR` of them a second whatever happens, and `RATIO` for each call
that the server answered. Past it a call waits for its turn, first come, first served, while its
deadline lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

FLOOR = 10.0
"""Retries a second that are always allowed."""
RATIO = 0.2
"""Retries earned by each answered call."""
SAVINGS = 100.0
"""Retries that can be saved up."""


class Budget:
    """Thread-safe; one for each client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._retries = FLOOR
        self._at = clock()

    def earn(self) -> None:
        """The server answered a call."""
        with self._lock:
            self._retries = min(SAVINGS, self._retries + RATIO)

    def refund(self) -> None:
        """A retry that had a turn is not sent."""
        with self._lock:
            self._retries = min(SAVINGS, self._retries + 1.0)

    def spend(self, within: float) -> float | None:
        """Seconds until a retry may be sent; None, and nothing spent, where they exceed `within`.

        A turn that is given is kept: whoever asks next comes after it.
        """
        with self._lock:
            now = self._clock()
            if self._retries < FLOOR:
                self._retries = min(FLOOR, self._retries + (now - self._at) * FLOOR)
            self._at = now
            wait = max(0.0, round((1.0 - self._retries) / FLOOR, 6))
            if wait > within:
                return None
            self._retries -= 1.0
            return wait
