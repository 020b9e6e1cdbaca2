"""Connections that break, and models that are missing after an outage."""

from __future__ import annotations

import errno
import socket

import pytest
from client_both import both
from client_wire import Connection, WireServer, error, http

from vestal import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    NotFound,
    TooLarge,
    WorkerDied,
)
from vestal.client.sockets import DeadlineSocket


@both
def test_a_connection_broken_after_the_whole_request_is_retried_once(kind: type[Client]) -> None:
    targets: list[str] = []

    def resets(connection: Connection) -> None:
        received = connection.receive()
        assert received is not None
        targets.append(received.target)
        if received.path == "/ping":
            connection.send(http(200, {"status": "Healthy"}, connection="close"))
        else:
            connection.reset()

    with WireServer(resets) as server, kind(server.url) as client, pytest.raises(WorkerDied):
        client.predict("m", b"x")
    assert targets == ["/predictions/m", "/ping", "/predictions/m"]


@both
def test_a_missing_model_is_not_retried_because_a_call_timed_out(
    kind: type[Client],
) -> None:
    def answers_then_is_silent(connection: Connection) -> None:
        while (request := connection.receive()) is not None:
            if request.body == b"slow":
                connection.hang()
            elif request.body == b"gone":
                connection.send(error(404, "ModelNotFoundException", "Model not found: m"))
            else:
                connection.send(http(200, {}))

    with WireServer(answers_then_is_silent) as server, kind(server.url) as client:
        client.predict("m", b"x")
        with pytest.raises(DeadlineExceeded):
            client.predict("m", b"slow", timeout=0.2)
        with pytest.raises(NotFound) as caught:
            client.predict("m", b"gone", timeout=2)
    assert caught.value.attempts == 1


@both
def test_errors_distinguish_breaks_during_and_after_sending(
    kind: type[Client],
) -> None:
    def resets_early(connection: Connection) -> None:
        connection.sock.recv(1000)
        connection.reset()

    with WireServer(resets_early) as server, kind(server.url) as client:
        with pytest.raises(ConnectionFailed, match="sending the request"):
            client.predict("m", b"x" * 50_000_000)
        assert server.connections == 3


@both
def test_a_response_before_the_end_of_the_upload_is_read(kind: type[Client]) -> None:
    def refuses_early(connection: Connection) -> None:
        connection.sock.recv(1000)
        connection.send(error(413, "TooLarge", "too large"))
        connection.sock.shutdown(socket.SHUT_WR)
        while connection.sock.recv(65536):  # as TorchServe does, it takes the rest and drops it
            pass

    with (
        WireServer(refuses_early) as server,
        kind(server.url) as client,
        pytest.raises(TooLarge, match="too large"),
    ):
        client.predict("m", b"x" * 50_000_000)


def test_a_connection_attempt_that_is_reset_is_a_failed_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by a server that ends at this moment; urllib3 ignores this error."""

    def reset(*_: object) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(DeadlineSocket, "connect", reset)
    with (
        Client("http://127.0.0.1:9", retries=0) as client,
        pytest.raises(ConnectionFailed, match="Connection reset by peer"),
    ):
        client.predict("m", b"x")
