"""Addresses that a client has reached, and the seconds for which an address refuses connections.

A refused connection means that the address is wrong, or that the server is down for a moment. If
the address responded before, the server is down, and the call is retried until its deadline. At an
address that never responded, the client gives up after a few seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from vestal.client.flow import Flow, HTTPRequest, HTTPResponse, Outcome, TransportFailure

PING = 5.0  # time limit of a ping, in seconds
GIVE_UP = 3.0  # seconds after which a call gives up on an address that was never reached
AT_ONCE = 1.0
"""Seconds after a call gave up in which other calls give up at the first refused connection."""


class ReachedAddresses:
    """The reached addresses of one client. Needs no lock, since assignments are atomic."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.connected = set(known)
        """Addresses that accepted a connection."""
        self.responded = set(known)
        """Addresses that sent an HTTP response."""
        self._given_up: dict[str, float] = {}

    def patience(self, address: str, refused_since: float) -> float:
        """Return the seconds until a call gives up: 0 for now, infinite for a reached address."""
        if address in self.connected:
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
        self._reached.connected.add(self._address)
        if isinstance(outcome, HTTPResponse):
            self._reached.responded.add(self._address)

    def refused(self) -> Flow[float]:
        """Return the seconds until the call gives up, after a refused connection."""
        if self._refused_since is None:
            self._refused_since = time.monotonic()
        connected = self._reached.connected
        other = None if self._address in connected else next(iter(connected), None)
        if other is not None and isinstance(
            (yield HTTPRequest("GET", other, "/ping", {}, limit=PING)), TransportFailure
        ):
            # The whole server is down for a moment, so this says nothing about the address.
            self._refused_since = time.monotonic()
        left = self._reached.patience(self._address, self._refused_since)
        self.give_up_at = time.monotonic() + left
        return left

    def accepts_connections_only(self, failure: TransportFailure) -> bool:
        """Whether the connection was closed at an address that never sent an HTTP response."""
        timed_out = isinstance(failure.error, TimeoutError)
        return not (failure.refused or timed_out or self._address in self._reached.responded)
