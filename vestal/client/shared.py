"""What all calls of a client share: a budget of retries, outages seen, suspects on their way.

Budget. A client whose every call is tried again and again multiplies the load of a server that is
down. So retries draw on a budget: `FLOOR` of them a second whatever happens, and `RATIO` for each
call that the server answered. Past it a call waits for its turn, first come, first served, while
its deadline lasts.

Outages. A TorchServe that was started again listens before its models are registered, and answers
404 until they are. A 404 for a model that answered this client before, or had a full queue, with
a broken connection since, is therefore worth a retry; any other 404 is the answer.

Suspects. Inputs that may kill a worker go one at a time (`vestal.client.suspects`).

Recent. How long predictions, or explanations, of each model and version took lately, for second
copies of requests that the server may have lost (`vestal.client.copies`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from vestal.client.pace import Lines
from vestal.client.reached import Reached
from vestal.client.recent import Recent
from vestal.client.suspects import Suspects

FLOOR = 10.0
"""Retries a second that are always allowed."""
RATIO = 0.2
"""Retries earned by each answered call."""
SAVINGS = 100.0
"""Retries that can be saved up."""
OUTAGE = 120.0
"""Seconds after a break that a model may still be missing for it."""


class Budget:
    """How much retrying a client may do; thread-safe."""

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


class Outages:
    """Has the server been away since it last knew a model? Assignments are atomic: no lock."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}
        self._broke = 0.0

    def knows(self, model: str) -> None:
        """The model answered, or its queue was full: it is registered."""
        self._known[model] = time.monotonic()

    def broke(self) -> None:
        self._broke = time.monotonic()

    def since_known(self, model: str) -> bool:
        known = self._known.get(model)
        recent = time.monotonic() - self._broke < OUTAGE
        return recent and known is not None and self._broke >= known


class Shared:
    """One for each client, and for each of its processes."""

    def __init__(self, reached: Reached | None = None) -> None:
        self.reached = reached or Reached()
        self.reset()

    def reset(self) -> None:
        """Starts afresh after a fork, when another thread of the parent may hold the locks."""
        self.budget = Budget()
        self.lines = Lines(self.budget)
        self.outages = Outages()
        self.suspects = Suspects()
        self._recent: dict[str, Recent] = {}

    def recent(self, path: str) -> Recent:
        """Recent answers by path: operation, model and version (requests may name none)."""
        return self._recent.get(path) or self._recent.setdefault(path, Recent())
