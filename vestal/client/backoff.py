"""Pauses between the attempts of one call.

A pause is random (full jitter), at least the server's Retry-After, draws on the client's retry
budget (`vestal.client.retry_state`) and ends before the deadline.
"""

from __future__ import annotations

import random
import time

from vestal.client.base import CallContext
from vestal.client.deadline import LONGEST
from vestal.client.errors import ClientError
from vestal.client.failures import CallErrors
from vestal.client.flow import Flow, Pause
from vestal.client.reachability import ConnectionTracker

BASE, FACTOR, CAP = 0.1, 2.0, 2.0
"""Seconds: the n-th pause is uniform between 0 and min(CAP, BASE * FACTOR**n)."""
LAST_TRY = 0.02
"""With fewer seconds left, another attempt would end at the deadline without a result."""
WITHOUT_DEADLINE = 10  # attempts of a call without a deadline
BUDGET_POLL = 0.25
"""Seconds between two checks of a budget that allows no retry before the deadline."""


def jittered(failures: int) -> float:
    """Return the seconds to pause after this number of failures (1 or more)."""
    return random.uniform(0, min(CAP, BASE * FACTOR ** min(failures - 1, 30)))


class Backoff:
    """Computes the pauses of one call. `attempts`: their number so far."""

    def __init__(
        self, context: CallContext, connection: ConnectionTracker, errors: CallErrors
    ) -> None:
        self._context = context
        self._deadline = context.deadline
        self._connection = connection
        self._errors = errors
        self.attempts = 0

    def pause_after(
        self, error: ClientError, *, server_pause: float | None = None, failures: int = 0
    ) -> float:
        """Return the seconds to pause; raises the error if no further attempt is possible.

        `server_pause`: seconds of the server's Retry-After. `failures`: consecutive failures, by
        default the number of attempts.
        """
        self._errors.last = error
        failures = failures or self.attempts
        self._context.span.event("retry", attempts=self.attempts, reason=str(error.args[0]))
        seconds = max(jittered(failures), server_pause or 0.0)
        if seconds > LONGEST:
            raise error
        if self._deadline.seconds is None:
            if failures >= WITHOUT_DEADLINE:
                raise error
            return seconds
        left = self._deadline.remaining()
        if server_pause is not None and server_pause >= left:
            raise error
        return max(server_pause or 0.0, min(seconds, left / 2))

    def time_left(self) -> float:
        """Return the seconds left for another attempt; raises if there are none."""
        left = self._deadline.remaining()
        if left < LAST_TRY:
            raise self._errors.too_late("waiting to try again", self.attempts)
        until_given_up = self._connection.give_up_at - time.monotonic()
        if until_given_up <= 0:
            assert self._errors.last is not None
            raise self._errors.last
        return min(left, until_given_up)

    def wait(self, seconds: float) -> Flow[None]:
        """Pause, and wait for the client's budget; raises if the deadline is too near."""
        budget = self._context.retry_state.budget
        while (delay := budget.spend(self.time_left())) is None:
            yield Pause(BUDGET_POLL)
        try:
            if delay or seconds:
                yield Pause(max(delay, seconds))
        except BaseException:  # the call was cancelled, so another call may use its retry
            budget.refund()
            raise
