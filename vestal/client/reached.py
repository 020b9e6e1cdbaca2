"""Which of its addresses a client has reached, and how long one has refused all connections.

A connection that is refused means a wrong address, or a server that is down for a moment. At an
address that answered before it is the latter, and worth retries until the deadline. At one that
never did, a few seconds tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from vestal.client.steps import Broken, Reply, Request, Steps

PING = 5.0
"""Seconds that a sign of life may take."""
GIVE_UP = 3.0
"""Seconds for which connections to an address that was never reached are tried."""
AT_ONCE = 1.0
"""Seconds after a call gave up in which the others do so at their first refused connection."""


class Reached:
    """Assignments are atomic: no lock."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._reached = set(known)
        self._spoke_http = set(known)
        self._given_up: dict[str, float] = {}

    def add(self, address: str) -> None:
        """Something answered there, or at least took a connection."""
        self._reached.add(address)

    def has(self, address: str) -> bool:
        return address in self._reached

    def add_http(self, address: str) -> None:
        """An HTTP response came from there."""
        self._spoke_http.add(address)

    def has_http(self, address: str) -> bool:
        return address in self._spoke_http

    def any(self) -> str | None:
        """An address of the server that was reached."""
        return next(iter(self._reached), None)

    def patience(self, address: str, refused_since: float) -> float:
        """Seconds until a call gives up on the address: 0 for now, infinite once it was reached."""
        if address in self._reached:
            return math.inf
        now = time.monotonic()
        left = refused_since + GIVE_UP - now
        if left > 0 and now - self._given_up.get(address, -math.inf) > AT_ONCE:
            return left
        self._given_up[address] = now
        return 0.0


class Contact:
    """One call's attempts to reach its address. `give_up_at`: a moment of the monotonic clock."""

    def __init__(self, reached: Reached, address: str) -> None:
        self._reached = reached
        self._address = address
        self._refused_since: float | None = None
        self.give_up_at = math.inf

    def note(self, outcome: Reply | Broken) -> None:
        """How an attempt ended."""
        if isinstance(outcome, Broken) and outcome.phase == "connecting":
            return
        self.give_up_at = math.inf
        self._reached.add(self._address)
        if isinstance(outcome, Reply):
            self._reached.add_http(self._address)

    def refused(self) -> Steps[float]:
        """Seconds until the call gives up, after an attempt was refused."""
        if self._refused_since is None:
            self._refused_since = time.monotonic()
        other = None if self._reached.has(self._address) else self._reached.any()
        if other is not None and isinstance(
            (yield Request("GET", other, "/ping", {}, limit=PING)), Broken
        ):
            # The whole server is away for a moment, which says nothing of this address.
            self._refused_since = time.monotonic()
        left = self._reached.patience(self._address, self._refused_since)
        self.give_up_at = time.monotonic() + left
        return left

    def takes_connections_only(self, broken: Broken) -> bool:
        """Was the connection taken and closed, at an address that never sent an HTTP response?"""
        timed_out = isinstance(broken.error, TimeoutError)
        return not (broken.refused or timed_out or self._reached.has_http(self._address))
