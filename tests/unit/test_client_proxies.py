"""Proxies of the environment: none for this machine's own addresses; errors name the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from client_both import Blocking, both
from client_wire import HTTPServer, Received, error, http, script

from vestal import (
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    RequestRefused,
    ServerFailed,
    UsageError,
)
from vestal.client.proxies import find_proxies, is_loopback, without_credentials

FORBIDDEN = http(403, b"<html>Access denied by policy</html>")


@pytest.fixture(autouse=True)
def no_other_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@both
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_no_proxy_for_this_machine(
    kind: type[Client], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(lambda _: FORBIDDEN) as proxy, HTTPServer(lambda _: http(200, {})) as server:
        monkeypatch.setenv(variable, proxy.url)
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            with kind(url) as client:
                assert client.predict("m", b"x").value == {}
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *(("localhost", True), ("LOCALHOST.", True), ("a.localhost", True), ("127.8.9.1", True)),
        *(("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", True)),
        *(("10.0.0.1", False), ("localhost.example", False), ("example", False), ("", False)),
    ],
)
def test_loopback_hosts_are_recognized(host: str, own: bool) -> None:
    assert is_loopback(host) is own


@both
def test_addresses_of_the_ready_file_have_no_proxy(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://192.0.2.1:8080"  # a valid inference_address; nothing listens there
    (tmp_path / ".vestal").mkdir()
    addresses = {"inference": address, "management": address, "metrics": address}
    ready: dict[str, Any] = {**addresses, "key_file": None, "models": [], "pid": os.getpid()}
    (tmp_path / ".vestal" / "ready.json").write_text(json.dumps(ready))
    monkeypatch.chdir(tmp_path)
    with HTTPServer(lambda _: FORBIDDEN) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with kind() as client, pytest.raises((DeadlineExceeded, ConnectionFailed)):
            client.predict("m", b"x", timeout=0.5)
        assert proxy.connections == 0


@both
def test_an_error_names_the_proxy_without_its_password(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HTTPServer(lambda _: FORBIDDEN) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("http://", "http://me:secret@"))
        with kind("http://inference.test:8080") as client, pytest.raises(RequestRefused) as caught:
            client.predict("m", b"x")
    message = str(caught.value)
    assert f"http://inference.test:8080 through the proxy {proxy.url} answered 403" in message
    assert "NO_PROXY" in message
    assert "secret" not in message
    assert proxy.received[0].target.startswith("http://inference.test:8080/")
    assert proxy.received[0].headers["proxy-authorization"].startswith("Basic ")


@both
def test_every_kind_of_error_names_the_proxy(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Received) -> bytes:
        if "/models" in request.target:
            return http(200, b"<html>Please log in</html>")
        return error(400, "InvalidKeyException", "Token Authorization failed.")

    with HTTPServer(answer) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        through = f"through the proxy {proxy.url}"
        with kind("http://a.test", management="http://b.test") as client:
            with pytest.raises(ServerFailed, match=f"b.test {through}"):
                client.models()
            with pytest.raises(Exception, match=f"a.test {through} requires a token"):
                client.predict("m", b"x")
    with HTTPServer(script(http(502, b""))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with (
            kind("http://a.test") as client,
            pytest.raises(DeadlineExceeded, match=f"a.test through the proxy {proxy.url} within"),
        ):
            client.predict("m", b"x", timeout=0.3)


@both
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_connections_is_named(
    kind: type[Client], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestal.client.reachability.GIVE_UP", 0.3)
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", "http://me:secret@127.0.0.1:1")
    with kind(f"{scheme}://a.test:1") as client, pytest.raises(ConnectionFailed) as caught:
        client.predict("m", b"x")
    message = str(caught.value)
    assert "a.test:1 through the proxy http://127.0.0.1:1 cannot be reached" in message
    assert "NO_PROXY" in message
    assert "secret" not in message


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "foo://x", "http://", "http://p:port"])
def test_an_unusable_proxy_affects_only_addresses_that_need_it(
    kind: type[Client], proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    kind("http://127.0.0.1:8080", management="http://localhost:8081")
    monkeypatch.setenv("NO_PROXY", ".test")
    kind("http://a.test:8080")
    with pytest.raises(UsageError, match="ALL_PROXY"):
        kind("http://a.example:8080")


def test_a_password_in_a_wrong_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxy in ("http://me:secret@host:port", "foo://me:secret@host", "me:secret@host:port"):
        monkeypatch.setenv("ALL_PROXY", proxy)
        for kind in (Client, AsyncClient):
            with pytest.raises(UsageError) as caught:
                kind("http://a.example")
            assert "secret" not in str(caught.value)
    assert without_credentials("http://me:secret@[::1]:3128") == "http://[::1]:3128"


def test_the_variable_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "p:3128")
    monkeypatch.setenv("NO_PROXY", "inside.test,10.0.0.0/8,other.test:8081")
    addresses = [
        *("http://inside.test", "http://a.inside.test", "http://10.1.2.3:80"),
        *("http://other.test:8081", "http://other.test:8080", "https://outside.test"),
    ]
    assert find_proxies(addresses) == {"http://other.test:8080": "http://p:3128"}
    monkeypatch.setenv("NO_PROXY", "*")
    assert find_proxies(addresses) == {}


def test_a_proxy_of_one_address_is_not_used_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(lambda _: FORBIDDEN) as proxy, HTTPServer(lambda _: http(200, {})) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        for kind in (Client, Blocking):
            with kind(server.url, management="http://b.test") as client:
                assert client.predict("m", b"x").value == {}
                with pytest.raises(RequestRefused, match="through the proxy"):
                    client.models()


def test_a_command_works_with_an_unusable_proxy() -> None:
    with HTTPServer(lambda _: http(200, {"label": "7"})) as server:
        done = subprocess.run(
            [sys.executable, "-m", "vestal", "predict", "m", "--url", server.url, "--text", "a"],
            env={**os.environ, "ALL_PROXY": "socks5://127.0.0.1:1", "HTTP_PROXY": "http://p.test"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
