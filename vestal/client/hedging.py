"""Second copies of a request that the server may have lost.

If a TorchServe worker dies while it collects a batch, the requests it has collected never get a
response (WorkerThread is interrupted in pollBatch). The client cannot tell a lost request from a
slow one, so it sends a copy when the request has waited much longer than recent responses of that
model and version took: `MEDIAN_FACTOR` times their median and `SLOWEST_FACTOR` times the slowest
(or half of the request's time, if that is less). Without recent responses, it sends the copy after
half of the request's time, at the earliest after `WITHOUT_HISTORY` seconds.

In an outage every request waits that long. So while no later request has a response, the client
sends only one copy every few seconds, a scout; its response shows that the other requests were
overtaken. Every copy draws on the retry budget.
"""

from __future__ import annotations

import math
import time
from collections import deque
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING

from vestal.client.classification import Verdict, classify
from vestal.client.deadline import LONGEST
from vestal.client.flow import HTTPRequest, HTTPResponse, Outcome

if TYPE_CHECKING:
    from vestal.client.retry import Attempts

SHORTEST_WAIT = 1.0  # seconds before the first copy, or half of the request's time if that is less
WITHOUT_HISTORY = 5.0
"""Seconds before the first copy for a model and version without recent responses."""
MEDIAN_FACTOR, SLOWEST_FACTOR = 4.0, 2.0
POLL = 0.5  # seconds between two checks whether to send a copy
MOST_COPIES = 3  # copies in flight at once, in addition to the first request
PATIENCE = 60.0  # seconds that count as half of the time of a call without a deadline
REMEMBERED = 100  # responses remembered for each operation, model and version
SCOUT_INTERVAL = 5.0  # seconds between two scouts, unless the first one gets a response


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


class HedgingPolicy:
    """Decides when copies of one attempt are sent, and which outcome ends the attempt."""

    def __init__(self, attempt: Attempts, history: ResponseHistory) -> None:
        self._attempt = attempt
        self._history = history
        self._sent = time.monotonic()
        self._half = self._half_of_time_left()
        self._in_flight = 1
        self._scouting = False
        self._not_before = self._sent + min(SHORTEST_WAIT, self._half)

    def next(self) -> HTTPRequest | float:
        """Return a copy to send now, or the seconds until the next check."""
        now = time.monotonic()
        if now < self._not_before:
            return min(LONGEST, self._not_before - now)
        if self._in_flight > MOST_COPIES:
            return LONGEST
        durations = self._history.durations()
        usual, due = 0.0, max(WITHOUT_HISTORY, self._half)
        if durations:
            usual = median(durations)
            due = max(MEDIAN_FACTOR * usual, min(SLOWEST_FACTOR * durations[-1], self._half))
        overtaken = self._history.has_later_response(self._sent)
        if self._attempt.retried_once and not overtaken:
            # The input may kill workers: each copy could kill another one.
            due = max(due, self._half)
        if now - self._sent < due:
            return min(POLL, self._sent + due - now)
        if self._attempt.deadline.remaining() < usual:
            return LONGEST
        if not overtaken:
            self._scouting = self._scouting or self._history.allow_scout()
            if not self._scouting:
                return POLL
        copy = self._attempt.copy()
        if copy is None:
            return POLL
        self._in_flight += 1
        self._not_before = now + self._half_of_time_left()
        return copy

    def settles(self, outcome: Outcome) -> bool:
        """Whether this outcome ends the attempt although another copy is in flight.

        A success does, and a refusal of this input. After another outcome, another copy may still
        succeed.
        """
        if self._attempt.deadline.expired:
            return True
        if isinstance(outcome, HTTPResponse):
            verdict = classify(outcome)
            if verdict is Verdict.SUCCESS or (verdict is Verdict.FINAL and outcome.status < 500):
                return True
        self._in_flight -= 1
        if not self._attempt.record_failed_copy(outcome):
            self._not_before = math.inf
        return False

    def _half_of_time_left(self) -> float:
        left = self._attempt.deadline.remaining()
        return PATIENCE if left == math.inf else left / 2
