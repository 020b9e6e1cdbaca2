"""Servers that stall in every way, for the client's tests."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from client_wire import Connection

from vestal import DeadlineExceeded

SECONDS = 0.6
"""Timeout of a call to a server that stalls."""
LATE = 10.0
"""Seconds after the deadline that a loaded machine may need; the servers stall for longer."""


@contextmanager
def ends_at_the_deadline(seconds: float = SECONDS) -> Iterator[pytest.ExceptionInfo]:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        yield caught
    elapsed = time.monotonic() - started
    assert seconds - 0.05 <= elapsed <= seconds + LATE
    assert isinstance(caught.value, TimeoutError)


def silent(connection: Connection) -> None:
    connection.receive()
    connection.hang()


def trickles_headers(connection: Connection) -> None:
    connection.receive()
    connection.send(b"HTTP/1.1 200 OK\r\n")
    connection.trickle(b"x-slow: yes\r\n" * 100)


def trickles_body(connection: Connection) -> None:
    connection.receive()
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    connection.trickle(b"x" * 1000)


def trickles_chunks(connection: Connection) -> None:
    connection.receive()
    connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    connection.trickle(b"1\r\nx\r\n" * 200)


def never_reads(connection: Connection) -> None:
    connection.hang()


@contextmanager
def full_backlog() -> Iterator[tuple[str, int]]:
    """An address where connecting hangs: Linux drops connections beyond the backlog."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()
        finally:
            for filler in fillers:
                filler.close()
