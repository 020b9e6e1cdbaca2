"""The state of retries that all calls of a client share.

Budget. A client that retries every call multiplies the load of a server that is down. So retries
draw on a budget: at least `FLOOR` retries per second, and `RATIO` more for each call that gets a
response. Beyond it calls wait, first come, first served, until their deadlines.

Outages. A restarted TorchServe listens before its models are registered, and returns 404 until they
are. So a 404 for a model that responded to this client before, or had a full queue, is retried if
a connection has broken since; any other 404 is final.

Suspects. TorchServe sends "Worker died." to every request of the batch, and the client cannot know
which input was the cause. Retried together, they could share a batch again: the input would kill
another worker, and the others would use up their only retry. So they are retried one at a time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import Lock

from vestal.client.deadline import Deadline
from vestal.client.flow import Flow, Pause
from vestal.client.hedging import ResponseHistory
from vestal.client.reachability import ReachedAddresses
from vestal.client.waiting_calls import WaitingCalls

FLOOR = 10.0  # retries per second that are always allowed
RATIO = 0.2  # retries earned by each call that got a response
SAVINGS = 100.0  # most retries that can be saved up
OUTAGE = 120.0  # seconds after a broken connection within which a missing model may come back
SLOT_POLL = 0.01  # seconds between two attempts to acquire the slot of a model
SLOT_SECONDS = 30.0  # seconds that a call without a deadline waits for the slot


class RetryBudget:
    """How many retries a client may send; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._retries = FLOOR
        self._at = clock()

    def earn(self) -> None:
        """Record that a call got a response."""
        with self._lock:
            self._retries = min(SAVINGS, self._retries + RATIO)

    def refund(self) -> None:
        """Return a retry that is not sent."""
        with self._lock:
            self._retries = min(SAVINGS, self._retries + 1.0)

    def spend(self, within: float) -> float | None:
        """Reserve a retry; return the seconds until it may be sent.

        Returns None, and reserves nothing, if that is more than `within` seconds.
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
    """Whether the server went down since a model responded. Needs no lock."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}
        self._broke = 0.0

    def record_model(self, model: str) -> None:
        """Record that the model is registered: it responded, or its queue was full."""
        self._known[model] = time.monotonic()

    def record_break(self) -> None:
        """Record a broken connection."""
        self._broke = time.monotonic()

    def broke_since_known(self, model: str) -> bool:
        """Whether a connection broke recently, and after the model last responded."""
        recent = time.monotonic() - self._broke < OUTAGE
        return recent and self._broke >= self._known.get(model, math.inf)


class SuspectGate:
    """One slot per model for retries after a worker's death; thread-safe."""

    def __init__(self) -> None:
        self._slots: dict[str, Lock] = {}

    def try_acquire(self, model: str) -> bool:
        """Acquire the model's slot if it is free."""
        return self._slots.setdefault(model, Lock()).acquire(blocking=False)

    def acquire_slot(self, model: str, deadline: Deadline) -> Flow[bool]:
        """Wait for the model's slot; False after half of the remaining time."""
        left = deadline.remaining() / 2
        end = deadline.elapsed + (SLOT_SECONDS if left == math.inf else left)
        while not self.try_acquire(model):
            if deadline.elapsed >= end:
                return False
            yield Pause(SLOT_POLL)
        return True

    def release_slot(self, model: str) -> None:
        self._slots[model].release()


class RetryState:
    """One per client and process."""

    def __init__(self, reached: ReachedAddresses | None = None) -> None:
        self.reached = reached or ReachedAddresses()
        self.reset()

    def reset(self) -> None:
        """Replace all state after a fork: another thread of the parent may hold the locks."""
        self.budget = RetryBudget()
        self.waiting_calls = WaitingCalls(self.budget)
        self.outages = Outages()
        self.suspect_gate = SuspectGate()
        self._history: dict[str, ResponseHistory] = {}

    def history(self, path: str) -> ResponseHistory:
        """Return the history of a path: of an operation, a model and, if requested, a version."""
        return self._history.get(path) or self._history.setdefault(path, ResponseHistory())
