"""The gateway while callers take connections and memory, and while its log is rotated."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest
import requests
from gateway_served import KEY, MAX_BODY, Gated, gated
from serving import START_SECONDS, until

from vestal.fleet import gatekeeper
from vestal.gateway import bootstrap

pytestmark = pytest.mark.slow
MB = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with gated(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@contextlib.contextmanager
def connections(served: Gated, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as opened:
        yield [
            opened.enter_context(socket.create_connection(served.address, timeout=15))
            for _ in range(count)
        ]


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_connections_above_the_limit_are_closed_and_the_others_are_served(served: Gated) -> None:
    served.change(max_connections=50)
    try:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {KEY}"

            def status() -> int:
                return session.post(f"{served.url}/predictions/echo", b"x", timeout=20).status_code

            assert status() == 200
            before = served.envoy.memory_info().rss
            with connections(served, 300) as opened:
                assert sum(map(is_closed, opened[100:])) == 200
                assert status() == 200  # on the connection that it has
                assert served.envoy.memory_info().rss < before + 50 * MB
        until(lambda: served.post().status_code == 200, 15, "a new connection")
    finally:
        served.change(max_connections=1000)


def test_new_requests_are_refused_while_bodies_fill_the_memory(
    served: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The callers have a key, and send all but the last byte of their bodies."""
    heap, size = 256 * MB, 8 * MB
    monkeypatch.setattr(bootstrap, "_HEAP_BYTES", heap)
    served.change(max_body=size, body_timeout=60, max_connections=900)
    head = (
        f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: a/b\r\nContent-Length: {size}\r\n\r\n"
    ).encode()
    envoy = served.envoy
    try:
        with connections(served, heap // size + 8) as opened:
            for connection in opened:
                with contextlib.suppress(OSError):  # the last ones may be refused
                    connection.sendall(head + bytes(size - 1))
            refusal = until(lambda: [r for r in [served.post()] if not r.ok], 15, "a refusal")[0]
            assert refusal.status_code == 503
            assert envoy.memory_info().rss < 2 * heap
        until(lambda: served.post().ok, 30, "service after the attack")
        assert served.envoy == envoy  # it is the same process
    finally:
        monkeypatch.undo()
        served.change(max_body=MAX_BODY, body_timeout=2, max_connections=1000)


def test_no_line_of_the_access_log_is_lost_when_it_is_rotated(
    served: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = served.server._project.logs / "gateway_access.log"
    rotated = log.with_name(f"{log.name}.1")
    rotated.unlink(missing_ok=True)
    ended, sent = threading.Event(), []

    def call(caller: int) -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {KEY}"
            number = 0
            while not ended.is_set():
                identity = f"rotation-{caller}-{number}"
                url, headers = f"{served.url}/predictions/echo", {"X-Request-Id": identity}
                assert session.post(url, b"x", headers=headers, timeout=20).status_code == 200
                sent.append(identity)
                number += 1

    threads = [threading.Thread(target=call, args=[caller]) for caller in range(2)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(sent) > 200, 30, "requests")
        monkeypatch.setattr(gatekeeper, "_MOST_LOG_BYTES", 50_000)
        until(rotated.exists, START_SECONDS, "a rotation")
        monkeypatch.undo()  # a second rotation would remove the first file
        count = len(sent)
        until(lambda: len(sent) > count + 200, 30, "requests after it")
    finally:
        ended.set()
        for thread in threads:
            thread.join()

    def logged() -> list[str]:
        lines = [*rotated.read_text().splitlines(), *log.read_text().splitlines()]
        found = (json.loads(line)["request_id"] or "" for line in lines)
        return sorted(each for each in found if each.startswith("rotation-"))

    until(lambda: len(logged()) >= len(sent), 30, "the last lines")  # Envoy writes every 10 s
    assert logged() == sorted(sent)
    assert psutil.pid_exists(served.envoy.pid)
