"""Where a client finds its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from client_wire import HTTPServer, http

from vestal import (
    AsyncClient,
    Client,
    ClientError,
    ConnectionFailed,
    InvalidAddress,
    NoAddress,
    RequestRefused,
    UsageError,
    VestalError,
)
from vestal.cli.waiting import wait_for_server
from vestal.project import Phase, Project, ReadyFile


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VESTAL_TOKEN", raising=False)
    project = Project.here()
    project.state.mkdir()
    return project


def write_ready_file(project: Project, url: str, *, pid: int, key_file: str | None = None) -> None:
    ready = ReadyFile(url, url, url, pid, key_file, [])
    project.ready_file.write_text(ready.to_json())


def test_no_argument_means_the_server_of_this_folder(project: Project) -> None:
    project.key_file.write_text('{"inference": {"key": "infer"}, "management": {"key": "manage"}}')
    with HTTPServer(lambda _: http(200, {"models": []})) as server:
        write_ready_file(project, server.url, pid=os.getpid(), key_file=str(project.key_file))
        with Client() as client:
            client.predict("m", b"x")
            client.models()
            client.metrics_text()
    tokens = [request.headers.get("authorization") for request in server.received]
    assert tokens == ["Bearer infer", "Bearer manage", None]


def test_the_error_without_a_server_names_the_command_that_starts_one(project: Project) -> None:
    with pytest.raises(ConnectionFailed, match="`vestal serve` starts one") as caught:
        Client()
    assert str(project.ready_file) in str(caught.value)


@pytest.mark.parametrize(
    ("phase", "hint"), [("starting", "prints Ready"), ("stopping", "when it has ended")]
)
def test_a_server_that_starts_or_stops_is_named_with_its_time(
    project: Project, phase: str, hint: str
) -> None:
    since = time.mktime((2026, 11, 26, 12, 3, 11, 0, 0, -1))
    project.phase_file.write_text(json.dumps(Phase(phase, os.getpid(), since)._asdict()))
    with pytest.raises(ConnectionFailed, match=rf"is {phase} \(since 12:03:11.*{hint}"):
        Client()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"phase": "starting", "pid": "x", "since": 0}', "dead"]
)
def test_an_invalid_or_outdated_phase_is_ignored(project: Project, text: str) -> None:
    if text == "dead":
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        text = json.dumps(Phase("starting", ended.pid, 0)._asdict())
    project.phase_file.write_text(text)
    with pytest.raises(ConnectionFailed, match="no server runs here: there is no"):
        Client()


def test_a_command_waits_for_a_server_that_is_starting(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.phase_file.write_text(json.dumps(Phase("starting", os.getpid(), 0)._asdict()))
    timer = threading.Timer(0.3, write_ready_file, [project, "http://127.0.0.1:1"], {"pid": 1})
    timer.start()
    wait_for_server(30)
    assert project.ready_file.exists()
    assert "has been starting since" in capsys.readouterr().err
    project.ready_file.unlink()
    wait_for_server(0.01)
    with pytest.raises(ConnectionFailed, match="is starting"):
        Client()
    project.phase_file.unlink()
    wait_for_server(30)  # none is starting


def test_the_ready_file_of_a_server_that_ended_raises(project: Project) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_ready_file(project, "http://127.0.0.1:1", pid=ended.pid)
    with pytest.raises(ConnectionFailed, match=f"process {ended.pid}.* has ended.*vestal serve"):
        Client()


def test_an_invalid_ready_file_is_named(project: Project) -> None:
    project.ready_file.write_text("{}")
    with pytest.raises(VestalError, match=r"ready\.json is not a ready file"):
        Client()


def test_an_explicit_address_ignores_the_ready_file(project: Project) -> None:
    write_ready_file(project, "http://127.0.0.1:1", pid=os.getpid())
    with Client("http://127.0.0.1:2") as client:
        assert "127.0.0.1:1>" not in repr(client)
        with pytest.raises(NoAddress, match=r"needs the management address.*management="):
            client.models()
        with pytest.raises(NoAddress, match=r"needs the metrics address.*metrics="):
            client.metrics_text()
    with (
        Client(management="http://127.0.0.1:2") as client,
        pytest.raises(NoAddress, match=r"needs the inference address.*url="),
    ):
        client.predict("m", b"x")


WRONG: dict[object, str] = {
    "127.0.0.1:9180": "expected http://127.0.0.1:9180",
    "localhost": "expected http://localhost",
    "localhost:8080/serve": "expected http://localhost:8080/serve",
    "": "expected http://",
    "8080": "expected http://",
    ":8080": "expected http://",
    "ftp://host": "expected http:// or https://",
    "http:/host:1": "expected a host",
    "http://": "expected a host",
    "http://:8080": "expected a host",
    "http://h:x": "a port from 1 to 65535",
    "http://h:": "a port from 1 to 65535",
    "http://h:0": "a port from 1 to 65535",
    "http://h:-1": "a port from 1 to 65535",
    "http://h:65536": "a port from 1 to 65535",
    "http://h:80:90": "a port from 1 to 65535",
    f"http://h:{'9' * 5000}": "a port from 1 to 65535",
    "http://[::1:80": "expected a URL such as",
    "http://[nonsense]:80": "expected a URL such as",
    "http://h /a": "without spaces",
    " http://h": "without spaces",
    "http://h/\n": "without spaces",
    "http://h\u00fc:1": "without spaces",
    "http://h/\0": "without spaces",
    "http://h/?a=1": "expected no ?",
    "http://h/#": "expected no ?",
    "http://h/a/../b": "a path without",
    "http://h\\a": "a path without",
    f"http://{'a' * 64}:1": "1 to 63 letters",
    "http://a..b:1": "1 to 63 letters",
    "http://a_b*c:1": "a host of letters",
    "http://256.1.1.1:1": "an IPv4 address",
    "http://127.0.0:1": "an IPv4 address",
    8080: "expected a str",
    b"http://h:1": "expected a str",
    Path("http://h:1"): "expected a str",
    True: "expected a str",
}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", ["url", "management", "metrics"])
@pytest.mark.parametrize("address", WRONG)
def test_an_invalid_address_raises_a_client_error(
    kind: type[Client], name: str, address: object
) -> None:
    options: dict[str, Any] = {name: address}
    with pytest.raises(InvalidAddress) as caught:
        kind(**options)
    assert isinstance(caught.value, (ClientError, UsageError, ValueError))
    assert WRONG[address] in str(caught.value)
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address",
    [
        *("http://h", "HTTP://H:1/", "https://a-b.c_d.test.:65535", "http://[::1]:1"),
        *("http://127.0.0.1:1/a/b%20c", "http://[fe80::1%25eth0]:1", "http://0.0.0.0:1"),
    ],
)
def test_a_valid_address_is_accepted(kind: type[Client], address: str) -> None:
    kind(address)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem"),
        ("HTTPS_PROXY", "socks5://127.0.0.1:1"),  # PySocks and socksio are not installed
        ("HTTPS_PROXY", "foo://127.0.0.1:1"),
    ],
)
def test_an_invalid_environment_is_rejected(
    kind: type[Client], variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    match = r"no client can be made for https://h:1: .*HTTPS_PROXY"
    with pytest.raises(InvalidAddress, match=match):
        kind("https://h:1")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_folder_of_certificates_is_accepted(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    kind("https://h:1")


def test_addresses_with_the_same_prefix_are_distinguished() -> None:
    with (
        HTTPServer(lambda _: http(200, {"models": []})) as server,
        # The second port has the first one's digits, and one more.
        Client(url=server.url[:-1], management=server.url) as client,
    ):
        assert client.models() == []


def test_a_relative_key_file_stays_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("keys.json").write_text('{"inference": {"key": "k"}}')
    with (
        HTTPServer(lambda _: http(200, {})) as server,
        Client(server.url, key_file="keys.json") as client,
    ):
        monkeypatch.chdir("/")
        client.predict("m", b"x")


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError, match="token=") as caught:
        Client("http://user:hidden@host:1")
    assert "hidden" not in str(caught.value)


def test_an_address_may_have_a_prefix_and_a_slash() -> None:
    with HTTPServer(lambda _: http(200, {})) as server, Client(server.url + "/serve/") as client:
        client.predict("a model", b"x", version="1.0")
    assert server.received[0].target == "/serve/predictions/a%20model/1.0"


@pytest.mark.parametrize("name", ["", ".", "..", 3])
def test_an_invalid_name_is_refused(name: str) -> None:
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(UsageError, match="is not a name of a model"),
    ):
        client.predict(name, b"x")


def test_a_netrc_entry_does_not_replace_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password mine")
    monkeypatch.setenv("NETRC", str(netrc))
    with HTTPServer(lambda _: http(200, {})) as server, Client(server.url, token="t") as client:
        client.predict("m", b"x")
    assert server.received[0].headers["authorization"] == "Bearer t"


def test_a_redirect_is_not_followed_with_the_token() -> None:
    with HTTPServer(lambda _: http(200, {})) as elsewhere:
        moved = http(302, b"", location=elsewhere.url)
        with (
            HTTPServer(lambda _: moved) as server,
            Client(server.url, token="t") as client,
            pytest.raises(RequestRefused, match=r"answered 302.*not followed"),
        ):
            client.predict("m", b"x")
        assert elsewhere.received == []
