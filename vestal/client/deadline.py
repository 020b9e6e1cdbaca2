"""The time limit of a call."""

from __future__ import annotations

import math
import sys
import time
from enum import Enum
from typing import Literal

from vestal.errors import UsageError


class UseClientTimeout(Enum):
    """The type of `DEFAULT`, since None means no deadline."""

    DEFAULT = "the client's own timeout"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = UseClientTimeout.DEFAULT

Timeout = float | None | Literal[UseClientTimeout.DEFAULT]
"""Seconds in total; None: no deadline; DEFAULT: the timeout of the client."""


LONGEST = 1e6
"""Seconds (11 days): a longer timeout counts as no deadline, since sockets have a limit."""


class Deadline:
    """`seconds` from now; None: no deadline."""

    __slots__ = ("_end", "seconds", "started")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = check(seconds)
        self.started = time.monotonic()
        self._end = math.inf
        if seconds is not None and seconds <= LONGEST:
            self._end = self.started + seconds

    def remaining(self) -> float:
        """Return the seconds left: never negative, infinite without a deadline."""
        return max(0.0, self._end - time.monotonic())

    def timeout(self) -> float | None:
        """Return the seconds left as a library's timeout: None without a deadline."""
        left = self.remaining()
        return None if left == math.inf else left

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self._end

    def within(self, seconds: float | None) -> Deadline:
        """Return this deadline, or one in `seconds` if that is earlier."""
        left = self.remaining()
        return self if seconds is None or seconds >= left else Deadline(seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.started


def check(seconds: object) -> float | None:
    """Return a timeout; raises UsageError unless it is a positive number of seconds or None."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise UsageError(
            f"timeout is {seconds!r}: expected a positive number of seconds, "
            "or None for no deadline at all"
        )
    return float(min(seconds, sys.float_info.max))
