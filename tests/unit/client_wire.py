"""A server on raw sockets for the client's tests, whose behaviour each test defines."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Received:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query))


class Connection:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, number: int, closing: threading.Event) -> None:
        self.sock = sock
        self.number = number
        self.closing = closing
        self._buffer = b""

    def receive(self) -> Received | None:
        """Return the next whole request; None if the client has disconnected."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        while len(self._buffer) < length:
            if not self._fill():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        method, target, _ = first.split(" ")
        return Received(method, target, headers, body, self.number)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def trickle(self, data: bytes, seconds: float = 0.05) -> None:
        """Send one byte at a time."""
        for byte in data:
            self.send(bytes([byte]))
            if self.closing.wait(seconds):
                return

    def hang(self) -> None:
        """Block until the end of the test."""
        self.closing.wait()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def _fill(self) -> bool:
        data = self.sock.recv(65536)
        self._buffer += data
        return bool(data)


class WireServer:
    """Calls `behave` with each connection, in a thread of its own."""

    def __init__(self, behave: Callable[[Connection], None]) -> None:
        self._behave = behave
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        # A duplicate wakes no recv when it is closed; shutdown of the connection itself does.
        closer = threading.Thread(target=self._shut_down, args=(sock,))
        closer.start()
        self._threads.append(closer)
        try:
            self._behave(Connection(sock, number, self._closing))
        except OSError:
            pass  # the client has disconnected
        finally:
            sock.close()

    def _shut_down(self, sock: socket.socket) -> None:
        self._closing.wait()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        thread.start()
        self._threads.append(thread)


class HTTPServer(WireServer):
    """Responds with the result of `answer`, and records the requests."""

    def __init__(self, answer: Callable[[Received], bytes]) -> None:
        super().__init__(self._converse)
        self._answer = answer
        self.received: list[Received] = []

    def _converse(self, connection: Connection) -> None:
        while (request := connection.receive()) is not None:
            self.received.append(request)
            answer = self._answer(request)
            connection.send(answer)
            if b"connection: close" in answer:
                return


def script(*answers: bytes) -> Callable[[Received], bytes]:
    """Return the responses in order; repeat the last one."""
    left = list(answers)

    def answer(_: Received) -> bytes:
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def http(status: int = 200, body: object = b"", **headers: str) -> bytes:
    """Return a response. A body that is not bytes is sent as JSON; errors close the connection."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("content_type", "application/json")
    if status >= 400:
        headers.setdefault("connection", "close")
    headers.setdefault("x_request_id", "request-1")
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} \r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


def error(status: int, kind: str, message: str, **headers: str) -> bytes:
    return http(status, {"code": status, "type": kind, "message": message}, **headers)


WORKER_DIED = error(500, "InternalServerException", "Worker died.")
QUEUE_FULL = error(503, "ServiceUnavailableException", 'Model "m" has no worker to serve')
BAD_TOKEN = error(400, "InvalidKeyException", "Token Authorization failed.")


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.005)
