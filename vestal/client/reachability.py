"""Which addresses a client has reached, and for how long an address has refused connections.

A refused connection means a wrong address, or a server that is down for a moment. For an address
that responded before it is the latter, and retried until the deadline. For an address that never
responded, the client gives up after a few seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from vestal.client.flow import (
    Flow,
    HTTPRequest,
    HTTPResponse,
    Outcome,
    TransportFailure,
)

PING = 5.0
"""Time limit of a ping, in seconds."""
GIVE_UP = 3.0
"""Seconds after which a call gives up on an address that was never reached."""
AT_ONCE = 1.0
"""Seconds after a call gave up within which others do so at their first refused connection."""


class ReachedAddresses:
    """The addresses of one client. Needs no lock: assignments are atomic."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._reached = set(known)
        self._spoke_http = set(known)
        self._given_up: dict[str, float] = {}

    def add(self, address: str) -> None:
        """Record that the address responded, or at least accepted a connection."""
        self._reached.add(address)

    def has(self, address: str) -> bool:
        return address in self._reached

    def add_http(self, address: str) -> None:
        """Record that the address sent an HTTP response."""
        self._spoke_http.add(address)

    def has_http(self, address: str) -> bool:
        return address in self._spoke_http

    def any(self) -> str | None:
        """Return an address of the server that was reached."""
        return next(iter(self._reached), None)

    def patience(self, address: str, refused_since: float) -> float:
        """Return the seconds until a call gives up: 0 for now, infinite once it was reached."""
        if address in self._reached:
            return math.inf
        now = time.monotonic()
        left = refused_since + GIVE_UP - now
        if left > 0 and now - self._given_up.get(address, -math.inf) > AT_ONCE:
            return left
        self._given_up[address] = now
        return 0.0


class ConnectionTracker:
    """One call's attempts to reach its address. `give_up_at`: monotonic time."""

    def __init__(self, reached: ReachedAddresses, address: str) -> None:
        self._reached = reached
        self._address = address
        self._refused_since: float | None = None
        self.give_up_at = math.inf

    def record(self, outcome: Outcome) -> None:
        """Record how an attempt ended."""
        if isinstance(outcome, TransportFailure) and outcome.phase == "connecting":
            return
        self.give_up_at = math.inf
        self._reached.add(self._address)
        if isinstance(outcome, HTTPResponse):
            self._reached.add_http(self._address)

    def refused(self) -> Flow[float]:
        """Return the seconds until the call gives up, after a refused connection."""
        if self._refused_since is None:
            self._refused_since = time.monotonic()
        other = None if self._reached.has(self._address) else self._reached.any()
        if other is not None and isinstance(
            (yield HTTPRequest("GET", other, "/ping", {}, limit=PING)), TransportFailure
        ):
            # The whole server is down for a moment, whatever this address is.
            self._refused_since = time.monotonic()
        left = self._reached.patience(self._address, self._refused_since)
        self.give_up_at = time.monotonic() + left
        return left

    def accepts_connections_only(self, failure: TransportFailure) -> bool:
        """Whether the connection was closed at an address that never sent an HTTP response."""
        timed_out = isinstance(failure.error, TimeoutError)
        return not (failure.refused or timed_out or self._reached.has_http(self._address))
