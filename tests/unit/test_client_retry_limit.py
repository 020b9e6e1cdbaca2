"""`retries=` limits how often a client sends a request again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from client_both import both
from client_wire import (
    BAD_TOKEN,
    QUEUE_FULL,
    WORKER_DIED,
    Connection,
    HTTPServer,
    Received,
    WireServer,
    http,
    script,
)

from vestal import Client, ConnectionFailed, DeadlineExceeded, Overloaded, ServerFailed


@both
@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (3, 4)])
def test_retries_limit_the_attempts(kind: type[Client], retries: int, attempts: int) -> None:
    with (
        HTTPServer(script(QUEUE_FULL)) as server,
        kind(server.url, retries=retries) as client,
        pytest.raises(Overloaded) as caught,
    ):
        client.predict("m", b"x", timeout=20)
    assert (caught.value.attempts, len(server.received)) == (attempts, attempts)


@both
def test_retries_zero_applies_to_dead_workers_and_lost_requests(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_one(connection: Connection) -> None:
        while (request := connection.receive()) is not None:
            if request.body == b"lost":
                received.append(request)
                connection.hang()
            connection.send(http(200, {}))

    monkeypatch.setattr("vestal.client.hedging.SHORTEST_WAIT", 0.05)
    received: list[object] = []
    with (
        HTTPServer(script(WORKER_DIED)) as server,
        kind(server.url, retries=0) as client,
        pytest.raises(ServerFailed, match="Worker died"),
    ):
        client.predict("m", b"x")
    assert len(server.received) == 1
    with WireServer(lose_one) as wire, kind(wire.url, retries=0) as client:
        client.predict("m", b"quick")
        with pytest.raises(DeadlineExceeded):
            client.predict("m", b"lost", timeout=0.5)  # without a limit, copied after 0.05 s
    assert len(received) == 1


@both
def test_retries_zero_names_an_address_without_a_listener(kind: type[Client]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with (
        kind(url, retries=0) as client,
        pytest.raises(ConnectionFailed, match=f"nothing listens at {url}") as caught,
    ):
        client.predict("m", b"x")
    assert caught.value.attempts == 1


@both
def test_a_renewed_token_does_not_count_as_a_retry(kind: type[Client], tmp_path: Path) -> None:
    key_file = tmp_path / "key_file.json"
    key_file.write_text('{"inference": {"key": "old-key"}}')

    def respond(request: Received) -> bytes:
        if request.headers["authorization"] == "Bearer old-key":
            key_file.write_text('{"inference": {"key": "new-key-2"}}')
            return BAD_TOKEN
        return http(200, {"label": "7"})

    with HTTPServer(respond) as server, kind(server.url, key_file=key_file, retries=0) as client:
        assert client.predict("m", b"x").attempts == 2
