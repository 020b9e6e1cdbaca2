"""The time a call has, in total."""

from __future__ import annotations

import math
import sys
import time
from enum import Enum
from typing import Literal

from vestal.errors import UsageError


class UseClientTimeout(Enum):
    """The type of `DEFAULT`; None cannot say it, since None means no deadline."""

    DEFAULT = "the client's own timeout"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = UseClientTimeout.DEFAULT

Timeout = float | None | Literal[UseClientTimeout.DEFAULT]
"""Seconds in total; None: no deadline; DEFAULT: the timeout the client was made with."""


LONGEST = 1e6
"""Seconds, 11 days: a socket's timeout cannot be much longer, so past it there is none."""


class Deadline:
    """`seconds` from now; None: never."""

    __slots__ = ("_end", "seconds", "started")

    def __init__(self, seconds: float | None) -> None:
        self.seconds = check(seconds)
        self.started = time.monotonic()
        self._end = math.inf
        if seconds is not None and seconds <= LONGEST:
            self._end = self.started + seconds

    def remaining(self) -> float:
        """Seconds left: never negative, infinite without a deadline."""
        return max(0.0, self._end - time.monotonic())

    def timeout(self) -> float | None:
        """Seconds left as the libraries want them: None without a deadline."""
        left = self.remaining()
        return None if left == math.inf else left

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self._end

    def within(self, seconds: float | None) -> Deadline:
        """This deadline, or so many seconds from now where those end earlier."""
        left = self.remaining()
        return self if seconds is None or seconds >= left else Deadline(seconds)

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.started


def check(seconds: object) -> float | None:
    """Gives a timeout back; raises UsageError where it is no positive number of seconds."""
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise UsageError(
            f"timeout is {seconds!r}: expected a positive number of seconds, "
            "or None for no deadline at all"
        )
    return float(min(seconds, sys.float_info.max))
