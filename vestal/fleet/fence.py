"""Hold all workers of a version for a moment in which none of them has a request.

When TorchServe ends a worker, the requests of its batch fail, or never get a response if the batch
is being collected. TorchServe's API does not tell whether a worker has a batch. Requests in the
queue are safe: another worker gets them.

So the fence makes every worker have a request of ours. It stops the n worker processes (SIGSTOP)
and sends n + 1 requests for the handler's description, which TorchServe never puts into a batch
with others. A worker's thread takes one request or batch, and waits for its process. If one request
is in the queue then, the n threads have n of our n + 1 requests and nothing else, because there
would be more in the queue if they had a request of a caller. Until the processes go on (SIGCONT),
requests of callers wait in the queue, and any worker can be ended without losing one.

The number in the queue is read on the connection on which the n + 1 requests were sent (HTTP
pipelining): TorchServe reads a connection's requests in order, so all of them have arrived.

Measured with batches of 64, a delay of 400 ms and two lone callers (rows of scale_down in
benchmarks/results): TorchServe's own call lost 27 of 165 requests in 264 removals; when nothing had
arrived for 600 ms, it lost 1 of 774 in 260; with the fence, none of 204 in 260.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import psutil

from vestal.client import Client, ServerFailed
from vestal.errors import VestalError

HOLD_SECONDS = 0.2
"""Time for which workers are stopped at most, until all of them have our requests."""
_CALL_SECONDS = 5.0
_DESCRIBE_SECONDS = 1.0
_READINGS = 2
"""A thread that collects a batch takes our request from the queue and puts it back, within
microseconds; so one reading is not enough."""
_ATTEMPTS = 5
_WORKER = "model_service_worker"


@dataclass(frozen=True)
class Management:
    """The management API. `url`: its base address; `token`: returns the token to send."""

    url: str
    token: Callable[[], str | None]


class NotIdle(VestalError):
    """A worker has a request, or is not READY; the version was not changed."""


def remove_workers(
    client: Client, management: Management, model: str, version: str, workers: int
) -> None:
    """Set a lower number of workers at a moment in which none of them has a request.

    Raises:
        NotIdle: this is no such moment.
        ClientError, OSError: TorchServe does not respond.
    """
    with fence(management, model, version):
        for attempt in range(_ATTEMPTS):
            try:
                client.scale(model, workers, version, wait=False, timeout=_CALL_SECONDS)
                return
            except ServerFailed as error:
                # ConcurrentModificationException: two threads answer a removed worker's requests,
                # which are ours. The worker is removed, but the next ones may not be.
                if error.status != 500 or attempt == _ATTEMPTS - 1:
                    raise


@contextlib.contextmanager
def fence(management: Management, model: str, version: str) -> Iterator[None]:
    """Stop all workers of a version while none of them has a caller's request.

    In the `with`, the number of workers can be changed and any of them can be killed; the call must
    not need a worker of this version.

    Raises:
        NotIdle: on entering.
        OSError: on entering: TorchServe does not respond.
    """
    name = f"{model} {version}"
    with _Connection(management, model, version) as connection:
        connection.send()
        workers = _idle_workers(connection.receive(), name)
        with _stopped(workers, name):
            deadline = time.monotonic() + HOLD_SECONDS
            connection.send(customized=True, times=len(workers) + 1)
            readings = 0
            while readings < _READINGS:
                if time.monotonic() > deadline:
                    raise NotIdle(f"a worker of {name} has a request")
                connection.send()
                pending = connection.receive()["jobQueueStatus"]["pendingRequests"]
                readings = readings + 1 if pending == 1 else 0
            yield


def _idle_workers(description: dict[str, Any], name: str) -> list[psutil.Process]:
    if description["jobQueueStatus"]["pendingRequests"]:
        raise NotIdle(f"{name} has requests in its queue")
    workers = []
    for worker in description["workers"]:
        try:
            process = psutil.Process(worker["pid"]) if worker["status"] == "READY" else None
            is_worker = process is not None and _WORKER in " ".join(process.cmdline())
        except (psutil.Error, ValueError):
            process, is_worker = None, False
        if process is None or not is_worker:
            raise NotIdle(f"worker {worker['id']} of {name} is not READY")
        workers.append(process)
    if not workers:
        raise NotIdle(f"{name} has no workers")
    return workers


@contextlib.contextmanager
def _stopped(workers: list[psutil.Process], name: str) -> Iterator[None]:
    stopped = []
    try:
        for worker in workers:
            try:
                worker.send_signal(signal.SIGSTOP)
            except psutil.NoSuchProcess:
                raise NotIdle(f"a worker of {name} has just ended") from None
            stopped.append(worker)
        yield
    finally:
        for worker in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGCONT)


class _Connection:
    """Sends requests for a description without waiting for the responses to earlier ones."""

    def __init__(self, management: Management, model: str, version: str) -> None:
        address, token = urlsplit(management.url), management.token()
        assert address.hostname is not None
        self._address = address.hostname, address.port or 80
        self._path = f"/models/{quote(model, safe='')}/{quote(version, safe='')}"
        self._headers = f"Host: {address.netloc}\r\n"
        if token is not None:
            self._headers += f"Authorization: Bearer {token}\r\n"
        self._name = f"{model} {version}"

    def __enter__(self) -> _Connection:
        self._socket = socket.create_connection(self._address, _CALL_SECONDS)
        self._socket.settimeout(_DESCRIBE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._responses: BinaryIO = self._socket.makefile("rb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._responses.close()
        self._socket.close()

    def send(self, *, customized: bool = False, times: int = 1) -> None:
        query = "?customized=true" if customized else ""
        request = f"GET {self._path}{query} HTTP/1.1\r\n{self._headers}\r\n"
        self._socket.sendall(request.encode("ascii") * times)

    def receive(self) -> dict[str, Any]:
        """Return the next description; raises NotIdle if a worker sent it, or for an error."""
        status = self._responses.readline()
        headers = http.client.parse_headers(self._responses)
        body = self._responses.read(int(headers.get("Content-Length", 0)))
        if b" 200 " not in status:
            raise NotIdle(f"{self._name} cannot be described: {body.decode(errors='replace')}")
        description: dict[str, Any] = json.loads(body)[0]
        if "customizedMetadata" in description:
            raise NotIdle(f"a worker of {self._name} was replaced")
        return description
