"""A wrong address raises after a few seconds; a server that was reached is retried."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from client_both import both
from client_wire import Connection, HTTPServer, WireServer, http

import vestal.cli
from vestal import Client, ConnectionFailed, DeadlineExceeded
from vestal.client.flow import HTTPRequest, HTTPResponse, Outcome, TransportFailure
from vestal.client.reachability import ConnectionTracker, ReachedAddresses
from vestal.configuration.ports import free_ports

pytestmark = pytest.mark.heavy

REFUSED = TransportFailure("connecting", ConnectionRefusedError("refused"), sent=False)


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address whose port is in use, without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def soon(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.5) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr("vestal.client.reachability.GIVE_UP", seconds)
        patched.setattr("vestal.client.retry.GIVE_UP", seconds)
        yield


@both
def test_a_wrong_port_raises_before_the_deadline(
    kind: type[Client], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with soon(monkeypatch), kind(nobody) as client:
        began = time.monotonic()
        with pytest.raises(ConnectionFailed) as caught:
            client.predict("m", b"x")
        took = time.monotonic() - began
    assert f"nothing listens at {nobody}; is the server running there?" in str(caught.value)
    assert "timeout=" not in str(caught.value)
    assert caught.value.attempts > 1
    assert took > 0.45


@pytest.mark.slow
@both
def test_by_default_a_call_tries_a_wrong_port_for_three_seconds(
    kind: type[Client], nobody: str
) -> None:
    with kind(nobody) as client:
        began = time.monotonic()
        with pytest.raises(ConnectionFailed) as caught:
            client.predict("m", b"x")
        assert time.monotonic() - began > 2.9
    assert caught.value.attempts > 2


@both
@pytest.mark.parametrize("call", ["models", "describe", "register", "metrics_text"])
def test_every_other_method_raises_at_a_wrong_port(
    kind: type[Client], nobody: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"describe": ["m"], "register": ["m-1.0.mar"]}.get(call, [])
    with (
        soon(monkeypatch, 0.1),
        kind(nobody, management=nobody, metrics=nobody) as client,
        pytest.raises(ConnectionFailed, match="nothing listens at"),
    ):
        getattr(client, call)(*arguments)


@both
def test_a_model_at_a_wrong_port_is_not_ready(
    kind: type[Client], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with soon(monkeypatch, 0.1), kind(nobody, management=nobody) as client:
        assert client.ready("m") is False
        with pytest.raises(DeadlineExceeded):
            client.wait_ready("m", timeout=0.5)


@both
def test_many_inputs_do_not_wait_one_after_another(
    kind: type[Client], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with soon(monkeypatch), kind(nobody) as client:
        results = client.predict_many("m", [b"x"] * 100, concurrency=4)
    assert {type(result) for result in results} == {ConnectionFailed}
    assert sum(result.attempts for result in results) < 200  # a call that waits needs 3 or more


class Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.wfile.write(http(200, {}))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening(port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@both
def test_a_call_waits_for_a_server_that_is_starting(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()
    record = ConnectionTracker.record

    def recorded(tracker: ConnectionTracker, outcome: Outcome) -> None:
        record(tracker, outcome)
        refused.set()

    monkeypatch.setattr(ConnectionTracker, "record", recorded)
    (port,) = free_ports("127.0.0.1", 1)
    with ThreadPoolExecutor(1) as pool, kind(f"http://127.0.0.1:{port}") as client:
        call = pool.submit(client.predict, "m", b"x")
        assert refused.wait(20)
        with listening(port):
            assert call.result().attempts > 1


@both
def test_a_call_waits_for_a_reached_server_until_the_deadline(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    with soon(monkeypatch), kind(f"http://127.0.0.1:{port}") as client:
        with listening(port):
            client.predict("m", b"x")
        with pytest.raises(DeadlineExceeded):
            client.predict("m", b"x", timeout=1)


@both
def test_a_wrong_port_of_a_reached_server_raises(
    kind: type[Client], nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        soon(monkeypatch),
        HTTPServer(lambda _: http(200, {})) as server,
        kind(server.url, management=nobody) as client,
    ):
        client.predict("m", b"x")
        with pytest.raises(ConnectionFailed, match=f"nothing listens at {nobody}"):
            client.describe("m", timeout=20)


def test_refused_connections_do_not_count_while_the_server_is_down() -> None:
    reached = ReachedAddresses()
    reached.connected.add("http://a")
    contact = ConnectionTracker(reached, "http://b")
    left = []
    for pong in (REFUSED, REFUSED, HTTPResponse(200, "", {}, b"")):
        steps = contact.refused()
        ping = steps.send(None)
        assert isinstance(ping, HTTPRequest)
        assert ping.url == "http://a/ping"
        time.sleep(0.05)
        with pytest.raises(StopIteration) as stop:
            steps.send(pong)
        left.append(stop.value.value)
    assert left[0] > 2.99
    assert left[1] > 2.99
    assert left[2] < 2.99


@both
def test_a_server_that_does_not_speak_http_raises(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greets(connection: Connection) -> None:
        connection.send(b"SSH-2.0-OpenSSH_9.6\r\n")
        connection.receive()

    with (
        soon(monkeypatch),
        WireServer(greets) as server,
        kind(server.url) as client,
        pytest.raises(ConnectionFailed, match="sends no HTTP response: is the port right"),
    ):
        client.predict("m", b"x", timeout=20)


@both
def test_https_at_a_port_without_tls_raises(kind: type[Client]) -> None:
    def refuses(connection: Connection) -> None:
        connection.sock.recv(1)
        connection.send(http(400))

    with (
        WireServer(refuses) as server,
        kind(server.url.replace("http:", "https:")) as client,
        pytest.raises(ConnectionFailed, match="Does that port use HTTPS"),
    ):
        client.predict("m", b"x", timeout=20)


def test_a_command_prints_the_error_once(
    nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["vestal", "predict", "m", "--url", nobody, "--text", "a", "--text", "b"]
    monkeypatch.setattr("sys.argv", command)
    with soon(monkeypatch), pytest.raises(SystemExit) as ended:
        vestal.cli.main()
    assert ended.value.code == 1
    printed = capsys.readouterr()
    message = " ".join((printed.out + printed.err).split())
    assert message.count("nothing listens at") == 1
    assert "Traceback" not in message
