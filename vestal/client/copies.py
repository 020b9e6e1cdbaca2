"""Second copies of a request that the server may have lost.

A TorchServe whose worker dies while it gathers a batch never answers what it has gathered
(WorkerThread is interrupted in pollBatch). The client cannot tell such a request from a slow one,
so a copy is sent when the request has waited much longer than the recent answers of that model and
version took: `USUAL` times their median and `SLOWEST` times the slowest, where half of its time
is enough for the latter. Without any recent answer, the copy is sent at half of its time, and not
before `UNKNOWN` seconds.

In an outage every request waits that long. So while nothing that was sent later is answered, only
one copy goes every few seconds, a scout; its answer shows that the others are overtaken. Every copy
draws on the budget of retries.
"""

from __future__ import annotations

import math
import time
from statistics import median
from typing import TYPE_CHECKING

from vestal.client.deadline import LONGEST
from vestal.client.steps import Broken, Reply, Request
from vestal.client.verdicts import Verdict, judge

if TYPE_CHECKING:
    from vestal.client.recent import Recent
    from vestal.client.retry import Attempts

LEAST = 1.0
"""Seconds before which no copy is sent, or half of the time that a request has."""
UNKNOWN = 5.0
"""The same for a model and version of which no answer is known."""
USUAL, SLOWEST = 4.0, 2.0
LOOK = 0.5
"""Seconds between two looks whether a copy should be sent."""
MOST = 3
"""Copies of a request on their way at once, beside the first one."""
PATIENCE = 60.0
"""Seconds that count as half of the time of a call without a deadline."""


class Copies:
    """The copies of one attempt: when the next one goes, and whose outcome ends the attempt."""

    def __init__(self, attempt: Attempts, recent: Recent) -> None:
        self._attempt = attempt
        self._recent = recent
        self._sent = time.monotonic()
        self._half = self._half_of_the_rest()
        self._on_their_way = 1
        self._scouting = False
        self._not_before = self._sent + min(LEAST, self._half)

    def next(self) -> Request | float:
        """A copy to send now, or the seconds until this should be asked again."""
        now = time.monotonic()
        if now < self._not_before:
            return min(LONGEST, self._not_before - now)
        if self._on_their_way > MOST:
            return LONGEST
        durations = self._recent.durations()
        usual, due = 0.0, max(UNKNOWN, self._half)
        if durations:
            usual = median(durations)
            due = max(USUAL * usual, min(SLOWEST * durations[-1], self._half))
        overtaken = self._recent.overtook(self._sent)
        if self._attempt.once_used and not overtaken:
            # It may kill the worker that is starting: each copy could cost another one.
            due = max(due, self._half)
        if now - self._sent < due:
            return min(LOOK, self._sent + due - now)
        if self._attempt.deadline.remaining() < usual:
            return LONGEST
        if not overtaken:
            self._scouting = self._scouting or self._recent.scout()
            if not self._scouting:
                return LOOK
        copy = self._attempt.copy()
        if copy is None:
            return LOOK
        self._on_their_way += 1
        self._not_before = now + self._half_of_the_rest()
        return copy

    def settles(self, outcome: Reply | Broken) -> bool:
        """Does this outcome end the attempt, although another copy is on its way?

        An answer does, and a refusal of this very input. Anything else only says what became of
        this copy: the other one may be healthy.
        """
        if self._attempt.deadline.expired:
            return True
        if isinstance(outcome, Reply):
            verdict = judge(outcome)
            if verdict is Verdict.ANSWER or (verdict is Verdict.FINAL and outcome.status < 500):
                return True
        self._on_their_way -= 1
        if not self._attempt.lost(outcome):
            self._not_before = math.inf
        return False

    def _half_of_the_rest(self) -> float:
        left = self._attempt.deadline.remaining()
        return PATIENCE if left == math.inf else left / 2
