"""Connections whose every socket operation ends at the call's deadline.

A timeout of requests counts anew with every operation, so a server that trickles one byte a second
is never too slow for it. Here each operation gets what is left of the whole call. The deadline
belongs to the thread that makes the call, since a connection outlives many calls.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from vestal.client.deadline import Deadline


class Exchange:
    """How far one request has come: read after it failed."""

    __slots__ = ("deadline", "phase", "sent")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.phase = "connecting"
        self.sent = False

    def timeout(self) -> float | None:
        """Seconds that a socket operation has; raises TimeoutError where none are left."""
        left = self.deadline.remaining()
        if not left:
            raise TimeoutError("the deadline has passed")
        return None if left == math.inf else left


# A context variable keeps threads apart, and gevent's greenlets too (Locust runs on them).
_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchange(deadline: Deadline) -> Iterator[Exchange]:
    """Every socket operation of this thread inside the block ends at the deadline."""
    current = Exchange(deadline)
    token = _current.set(current)
    try:
        yield current
    finally:
        _current.reset(token)


class _Timed:
    """Before each operation, what is left of the call becomes the socket's timeout."""

    def _set_timeout(self) -> None:
        current = _current.get()
        if current is not None:
            self.settimeout(current.timeout())  # type: ignore[attr-defined]

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self._set_timeout()
        count: int = super().recv_into(*args, **kwargs)  # type: ignore[misc]
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._set_timeout()
        count: int = super().send(*args, **kwargs)  # type: ignore[misc]
        return count

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        # A plain socket's timeout holds for all of sendall; a TLS socket's sendall is many sends.
        self._set_timeout()
        super().sendall(*args, **kwargs)  # type: ignore[misc]


class DeadlineSocket(_Timed, socket.socket):
    pass


class DeadlineSSLSocket(_Timed, ssl.SSLSocket):
    pass


class _Connection:
    """Connects within the deadline, over all addresses of a name, and notes how far it came."""

    def _new_conn(self) -> socket.socket:
        host, port = self._dns_host, self.port  # type: ignore[attr-defined]
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            connection = DeadlineSocket(family, kind, protocol)
            try:
                for option in self.socket_options or ():  # type: ignore[attr-defined]
                    connection.setsockopt(*option)
                connection._set_timeout()
                connection.connect(address)
                # The TLS handshake comes next, before any of our own operations.
                connection._set_timeout()
            except OSError as error:
                connection.close()
                failure = error
            else:
                return connection
        raise failure or OSError(f"{host} has no address")

    def request(self, *args: Any, **kwargs: Any) -> None:
        current = _current.get()
        if current is not None and not self.is_closed:  # type: ignore[attr-defined]
            current.phase = "sending the request"
        super().request(*args, **kwargs)  # type: ignore[misc]
        if current is not None:
            current.sent = True
            current.phase = "waiting for the answer"

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        current = _current.get()
        if current is not None:
            current.phase = "sending the request"


class _HTTPConnection(_Connection, HTTPConnection):
    pass


class _HTTPSConnection(_Connection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
"""`pool_classes_by_scheme` of a urllib3 PoolManager."""
