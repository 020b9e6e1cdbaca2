"""No server can delay a call beyond its deadline."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from client_both import both
from client_tls import make_certificate, server_context
from client_wire import QUEUE_FULL, Connection, HTTPServer, WireServer, http, script
from urllib3 import HTTPConnectionPool, PoolManager

from vestal import Client, ConnectionFailed, DeadlineExceeded, UsageError
from vestal.client.base import CallContext
from vestal.client.deadline import Deadline
from vestal.client.failures import CallErrors
from vestal.client.flow import ApiCall
from vestal.client.retry_state import RetryState
from vestal.client.settings import Addresses
from vestal.client.sockets import DeadlineSocket
from vestal.client.tokens import NoToken

SECONDS = 0.6
LATE = 1.0


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


@both
@pytest.mark.parametrize(
    ("behave", "body", "phase"),
    [
        (silent, b"x", "waiting for the answer"),
        (trickles_headers, b"x", "waiting for the answer"),
        (trickles_body, b"x", "reading the answer"),
        (trickles_chunks, b"x", "reading the answer"),
        (never_reads, b"x" * 50_000_000, "sending the request"),
    ],
)
def test_a_server_that_stalls_is_left_at_the_deadline(
    kind: type[Client], behave: Callable[[Connection], None], body: bytes, phase: str
) -> None:
    with WireServer(behave) as server, kind(server.url) as client:
        with ends_at_the_deadline() as caught:
            client.predict("m", body, timeout=SECONDS)
        assert phase in str(caught.value)
        assert caught.value.model == "m"
        assert caught.value.attempts == 1


@both
def test_a_full_backlog_is_left_at_the_deadline(kind: type[Client]) -> None:
    with _full_backlog() as (host, port), kind(f"http://{host}:{port}") as client:
        with ends_at_the_deadline() as caught:
            client.predict("m", b"x", timeout=SECONDS)
        assert "connecting" in str(caught.value)


@contextmanager
def _full_backlog() -> Iterator[tuple[str, int]]:
    """An address where connecting hangs: Linux drops what does not fit."""
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


@both
def test_a_kept_connection_obeys_the_deadline_of_each_call(kind: type[Client]) -> None:
    def second_is_silent(connection: Connection) -> None:
        connection.receive()
        connection.send(http(200, {"n": 1}))
        silent(connection)

    with WireServer(second_is_silent) as server, kind(server.url, hedge=False) as client:
        assert client.predict("m", b"x", timeout=None).value == {"n": 1}
        with ends_at_the_deadline():
            client.predict("m", b"x", timeout=SECONDS)
        assert server.connections == 1


@both
@pytest.mark.parametrize("how", ["path", "file object", "its own read"])
def test_an_input_that_never_comes_is_left_at_the_deadline(
    kind: type[Client], how: str, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # so that opening it waits for nobody

    class Hangs:
        def read(self) -> bytes:
            return pipe.read_bytes()

    with pipe.open("rb") as opened, kind("http://127.0.0.1:1") as client:
        value = {"path": pipe, "file object": opened, "its own read": Hangs()}[how]
        try:
            with ends_at_the_deadline() as caught:
                client.predict("m", value, timeout=SECONDS, correlation_id="order-7")
            assert "the input could not be read" in str(caught.value)
            assert (caught.value.model, caught.value.correlation_id) == ("m", "order-7")
            assert caught.value.attempts == 0
        finally:
            os.write(writer, b"x")  # the threads that read end
            os.close(writer)
            time.sleep(0.05)


@both
@pytest.mark.parametrize("timeout", [1e300, 10**400, float("inf")])
def test_a_deadline_past_all_clocks_is_none(kind: type[Client], timeout: float) -> None:
    answers = script(QUEUE_FULL, http(200, {}))
    with HTTPServer(answers) as server, kind(server.url, timeout=timeout) as client:
        assert client.predict("m", b"x").value == {}


@both
def test_retries_and_pauses_count_in_the_deadline(kind: type[Client]) -> None:
    with HTTPServer(script(QUEUE_FULL)) as server, kind(server.url) as client:
        with ends_at_the_deadline() as caught:
            client.predict("m", b"x", timeout=SECONDS)
        assert caught.value.attempts == len(server.received) > 2
        assert caught.value.status == 503
        assert "has no worker" in str(caught.value)


@both
def test_a_refused_connection_is_retried_until_the_deadline(kind: type[Client]) -> None:
    with socket.socket() as bound, kind(f"http://127.0.0.1:{_port(bound)}") as client:
        with ends_at_the_deadline() as caught:
            client.predict("m", b"x", timeout=SECONDS)
        assert "nothing listens at http://127.0.0.1" in str(caught.value)
        assert isinstance(caught.value.__cause__, ConnectionFailed)
        assert caught.value.attempts > 2


@both
def test_many_threads_each_have_their_own_deadline(kind: type[Client]) -> None:
    with WireServer(silent) as server, kind(server.url, timeout=SECONDS) as client:
        started = time.monotonic()
        errors = client.predict_many("m", [b"x"] * 16, concurrency=16)
        assert time.monotonic() - started <= SECONDS + LATE
    assert {type(error) for error in errors} == {DeadlineExceeded}


@both
def test_every_method_has_the_clients_timeout(kind: type[Client]) -> None:
    with (
        WireServer(silent) as server,
        kind(server.url, management=server.url, metrics=server.url, timeout=0.2) as client,
    ):
        calls: list[Callable[[], object]] = [
            lambda: client.predict("m", b"x"),
            lambda: client.wait_ready("m"),
            client.models,
            lambda: client.versions("m"),
            lambda: client.describe("m"),
            lambda: client.register("m.mar"),
            lambda: client.scale("m", 2),
            lambda: client.set_default("m", "1.0"),
            lambda: client.unregister("m", "1.0"),
            client.metrics_text,
        ]
        for call in calls:
            with ends_at_the_deadline(0.2):
                call()
        assert client.ready("m") is False


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), True, "3"])
def test_an_invalid_timeout_is_refused_by_name(timeout: float) -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        Client("http://127.0.0.1:1", timeout=timeout)
    with Client("http://127.0.0.1:1") as client, pytest.raises(UsageError, match="timeout is"):
        client.predict("m", b"x", timeout=timeout)


@both
def test_tls_obeys_the_deadline(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(*make_certificate(tmp_path))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))

    def behave(connection: Connection) -> None:
        connection.sock.settimeout(5)
        with context.wrap_socket(connection.sock, server_side=True) as secured:
            inner = Connection(secured, 1, connection.closing)
            inner.receive()
            inner.send(http(200, {"secure": True}))
            inner.receive()
            inner.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            inner.trickle(b"x" * 1000)

    with WireServer(behave) as server:
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        with kind(url) as client:
            assert client.predict("m", b"x", timeout=5).value == {"secure": True}
            with ends_at_the_deadline():
                client.predict("m", b"x", timeout=SECONDS)

    with WireServer(never_reads) as server:  # accepts, and never shakes hands
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        with kind(url) as client, ends_at_the_deadline():
            client.predict("m", b"x", timeout=SECONDS)


@both
def test_behind_a_proxy_tls_obeys_the_deadline(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tunnels_to_silence(connection: Connection) -> None:
        while not connection.sock.recv(1000).endswith(b"\r\n\r\n"):
            pass
        time.sleep(SECONDS / 2)  # the handshake has only what is left after that
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.hang()

    with WireServer(tunnels_to_silence) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with kind("https://server.invalid") as client, ends_at_the_deadline():
            client.predict("m", b"x", timeout=SECONDS)
        assert proxy.connections == 1


def test_behind_a_proxy_that_speaks_tls_the_inner_handshake_obeys_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(*make_certificate(tmp_path))

    def tunnels_to_silence(connection: Connection) -> None:
        with context.wrap_socket(connection.sock, server_side=True) as secured:
            secured.recv(1000)
            secured.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection.hang()

    with WireServer(tunnels_to_silence) as proxy:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        monkeypatch.setenv(
            "HTTPS_PROXY", proxy.url.replace("http://127.0.0.1", "https://localhost")
        )
        with Client("https://server.invalid") as client, ends_at_the_deadline():
            client.predict("m", b"x", timeout=SECONDS)


def test_pools_of_a_socks_proxy_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class SOCKS(PoolManager):
        pass

    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", lambda *_, **__: SOCKS())
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    client = Client("http://server.invalid")
    [(pool, prefix)] = client._transport._open().routes.values()
    assert type(pool) is HTTPConnectionPool
    assert prefix == ""


@both
def test_behind_a_proxy_a_plain_request_obeys_the_deadline(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = []

    def second_is_silent(connection: Connection) -> None:
        request = connection.receive()
        assert request is not None
        targets.append(request.target)
        connection.send(http(200, {}))
        silent(connection)

    with WireServer(second_is_silent) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with kind("http://server.invalid:8080/serve", hedge=False) as client:
            client.predict("m", b"x", timeout=SECONDS)
            with ends_at_the_deadline():
                client.predict("m", b"x", timeout=SECONDS)
    assert targets == ["http://server.invalid:8080/serve/predictions/m"]


def _resolves_to(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, tuple[object, ...]]) -> None:
    answers = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]
    monkeypatch.setattr("vestal.client.sockets.socket.getaddrinfo", lambda *_, **__: answers)


def test_an_address_of_a_family_that_the_kernel_lacks_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HTTPServer(script(http(200, {}))) as server, Client(server.url) as client:
        here = (socket.AF_INET, ("127.0.0.1", int(server.url.rpartition(":")[2])))
        _resolves_to(monkeypatch, (socket.AF_CAN, ("can0",)), here)
        monkeypatch.setattr(DeadlineSocket, "__init__", _without_can)
        assert client.predict("m", b"x").value == {}


def _without_can(self: socket.socket, family: int, *args: int) -> None:
    if family == socket.AF_CAN:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
    socket.socket.__init__(self, family, *args)


def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _full_backlog() as swallows, HTTPServer(script(http(200, {}))) as server:
        here = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with Client("http://server") as client:
            _resolves_to(monkeypatch, (socket.AF_INET, swallows), (socket.AF_INET, here))
            assert client.predict("m", b"x", timeout=2 * SECONDS).latency < 1.5 * SECONDS


@both
def test_a_certificate_that_is_not_trusted_is_not_tried_again(
    kind: type[Client], tmp_path: Path
) -> None:
    context = server_context(*make_certificate(tmp_path))

    def behave(connection: Connection) -> None:
        with pytest.raises((ssl.SSLError, OSError)), connection.sock:
            context.wrap_socket(connection.sock, server_side=True)

    with WireServer(behave) as server:
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        with kind(url) as client, pytest.raises(ConnectionFailed, match="certificate"):
            client.predict("m", b"x")
        assert server.connections == 1


def test_an_error_tells_whether_the_request_was_sent_before() -> None:
    addresses = Addresses("http://h:1", None, None)
    context = CallContext(addresses, NoToken(), Deadline(1), RetryState())
    failed = CallErrors(ApiCall("inference", "POST", "/predictions/m"), "http://h:1", context)
    assert "(before it was sent, 0 attempts)" in str(failed.too_late("before it was sent", 0))
    assert "(before it was sent again, 2 attempts)" in str(failed.too_late("before it was sent", 2))


def _port(sock: socket.socket) -> int:
    """A port that is taken, and on which nobody listens."""
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    return port
