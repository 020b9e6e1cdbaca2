"""TLS, proxies and the addresses of a host obey the deadline of a call."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from pathlib import Path

import pytest
from client_both import both
from client_stalling import (
    SECONDS,
    ends_at_the_deadline,
    full_backlog,
    never_reads,
    silent,
)
from client_tls import make_certificate, server_context
from client_wire import Connection, HTTPServer, WireServer, http, script
from urllib3 import HTTPConnectionPool, PoolManager

from vestal import Client, ConnectionFailed
from vestal.client.sockets import DeadlineSocket

pytestmark = pytest.mark.heavy


@both
def test_tls_obeys_the_deadline(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = server_context(*make_certificate(tmp_path)[:2])
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))

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
    context = server_context(*make_certificate(tmp_path)[:2])

    def tunnels_to_silence(connection: Connection) -> None:
        with context.wrap_socket(connection.sock, server_side=True) as secured:
            secured.recv(1000)
            secured.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            connection.hang()

    with WireServer(tunnels_to_silence) as proxy:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        monkeypatch.setenv(
            "HTTPS_PROXY", proxy.url.replace("http://127.0.0.1", "https://localhost")
        )
        with Client("https://server.invalid") as client, ends_at_the_deadline():
            client.predict("m", b"x", timeout=SECONDS)


def test_pools_of_a_socks_proxy_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_address_of_an_unsupported_family_is_skipped(
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


def test_an_address_without_a_response_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with full_backlog() as swallows, HTTPServer(script(http(200, {}))) as server:
        here = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with Client("http://server") as client:
            _resolves_to(monkeypatch, (socket.AF_INET, swallows), (socket.AF_INET, here))
            assert client.predict("m", b"x", timeout=2 * SECONDS).latency < 1.5 * SECONDS


@both
def test_an_untrusted_certificate_is_not_retried(kind: type[Client], tmp_path: Path) -> None:
    context = server_context(*make_certificate(tmp_path)[:2])

    def behave(connection: Connection) -> None:
        with pytest.raises((ssl.SSLError, OSError)), connection.sock:
            context.wrap_socket(connection.sock, server_side=True)

    with WireServer(behave) as server:
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        with kind(url) as client, pytest.raises(ConnectionFailed, match="certificate"):
            client.predict("m", b"x")
        assert server.connections == 1
