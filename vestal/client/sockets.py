"""Connections whose socket operations end at the deadline of the call.

The timeout of requests starts anew with each operation, so it does not end a response of one byte
per second. Here the timeout of each operation is the time that the call has left. The deadline
is stored per thread, since many calls share a connection.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from queue import Empty, Full, LifoQueue
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from vestal.client.deadline import Deadline
from vestal.client.flow import WAITING


class Exchange:
    """The progress of one request."""

    __slots__ = ("check", "check_at", "deadline", "phase", "sent")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.phase = "connecting"
        self.sent = False
        # Called `check_at` seconds after the call began, while the response is awaited. Returns
        # the seconds until its next call, or raises an error to end the wait.
        self.check: Callable[[], float] | None = None
        self.check_at = math.inf

    def timeout(self) -> float | None:
        """Return the seconds left for a socket operation; raises TimeoutError if none are."""
        left = self.deadline.timeout()
        if left == 0:
            raise TimeoutError("the deadline has passed")
        return left


# A context variable also separates the greenlets of gevent, which Locust uses.
_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchange(deadline: Deadline) -> Iterator[Exchange]:
    """Inside the block, the socket operations of this thread end at the deadline."""
    current = Exchange(deadline)
    token = _current.set(current)
    try:
        yield current
    finally:
        _current.reset(token)


class _Timed:
    """Sets the timeout of the socket to the time that the call has left, before each operation."""

    def _set_timeout(self, share: float = 1.0) -> None:
        current = _current.get()
        if current is not None:
            left = current.timeout()
            self.settimeout(left and left * share)  # type: ignore[attr-defined]

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        self._set_timeout()
        data: bytes = super().recv(*args, **kwargs)  # type: ignore[misc]
        return data

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        count: int
        current = _current.get()
        while current is not None and current.check is not None and current.phase == WAITING:
            until = max(0.001, current.check_at - current.deadline.elapsed)
            left = current.timeout()
            self.settimeout(until if left is None else min(until, left))  # type: ignore[attr-defined]
            try:
                count = super().recv_into(*args, **kwargs)  # type: ignore[misc]
            except TimeoutError:
                current.check_at = current.deadline.elapsed + current.check()
            else:
                return count
        self._set_timeout()
        count = super().recv_into(*args, **kwargs)  # type: ignore[misc]
        return count

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._set_timeout()
        count: int = super().send(*args, **kwargs)  # type: ignore[misc]
        return count

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        # A plain socket applies its timeout to the whole of sendall; a TLS socket calls send.
        self._set_timeout()
        super().sendall(*args, **kwargs)  # type: ignore[misc]


class DeadlineSocket(_Timed, socket.socket):
    pass


class DeadlineSSLSocket(_Timed, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        self._set_timeout()
        super().do_handshake(block)


def ssl_context(verified: bool = True) -> ssl.SSLContext:
    """Make a context whose sockets obey the deadline, also through a proxy."""
    context = create_urllib3_context()
    if not verified:
        context.check_hostname = False  # or urllib3 could not set CERT_NONE
    context.sslsocket_class = DeadlineSSLSocket
    return context


class _Connection:
    """Connects to one of the addresses of its host within the deadline; records the progress."""

    def _new_conn(self) -> socket.socket:
        host, port = self._dns_host, self.port  # type: ignore[attr-defined]
        failure: OSError | None = None
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for number, (family, kind, protocol, _, address) in enumerate(found):
            try:
                # Fails if the kernel does not have the address family: IPv6 in many containers.
                connection = DeadlineSocket(family, kind, protocol)
            except OSError as error:
                failure = error
                continue
            try:
                for option in self.socket_options or ():  # type: ignore[attr-defined]
                    connection.setsockopt(*option)
                # An address that does not respond must leave time for the next ones.
                connection._set_timeout(share=1 / (len(found) - number))
                connection.connect(address)
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
            current.phase = WAITING

    def getresponse(self) -> Any:
        # urllib3 ignores ECONNRESET before the response, also that of a connection attempt.
        if self.is_closed:  # type: ignore[attr-defined]
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return super().getresponse()  # type: ignore[misc]

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        current = _current.get()
        if current is not None:
            current.phase = "sending the request"


class _Idle(LifoQueue[Any]):
    """Idle connections, without a lock: a fork can copy a locked lock to the child.

    urllib3 empties the pool when the process exits, so the child could not exit.
    """

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self.queue.pop()
        except IndexError:
            raise Empty from None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if len(self.queue) >= self.maxsize:
            raise Full
        self.queue.append(item)

    def qsize(self) -> int:
        return len(self.queue)


class _HTTPConnection(_Connection, HTTPConnection):
    pass


class _HTTPSConnection(_Connection, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection
    QueueCls = _Idle


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
    QueueCls = _Idle


POOLS = {"http": _HTTPPool, "https": _HTTPSPool}
"""`pool_classes_by_scheme` of a urllib3 PoolManager."""
