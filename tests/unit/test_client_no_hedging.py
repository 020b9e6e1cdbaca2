"""Requests that are not lost get no second copy, and each model has its own history."""

from __future__ import annotations

import pickle
import time

import pytest
from client_both import both
from client_wire import (
    Connection,
    WireServer,
    http,
)

from vestal import AsyncClient, Client, UsageError
from vestal.client import hedging
from vestal.client.retry_state import RetryState

pytestmark = pytest.mark.heavy


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedging, "SHORTEST_WAIT", 0.15)
    monkeypatch.setattr(hedging, "POLL", 0.02)


@both
def test_a_request_as_slow_as_others_is_not_copied(kind: type[Client]) -> None:
    def slow(connection: Connection) -> None:
        while (received := connection.receive()) is not None:
            seen.append(received.body)
            time.sleep(float(received.body))
            connection.send(http(body="first"))

    seen: list[bytes] = []
    with WireServer(slow) as server, kind(server.url) as client:
        for body in (b"0.2", b"0.2", b"0.7"):  # of the last one's deadline more than half
            assert client.predict("m", body, timeout=1).attempts == 1
    assert seen == [b"0.2", b"0.2", b"0.7"]


@both
def test_a_response_that_is_being_received_is_not_lost(kind: type[Client]) -> None:
    def trickles(connection: Connection) -> None:
        connections.append(connection)
        while connection.receive() is not None:
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
            connection.trickle(b"x" * 10, 0.001 if len(connections) == 1 else 0.1)
            connections.append(connection)

    connections: list[Connection] = []
    with WireServer(trickles) as server, kind(server.url) as client:
        for _ in range(2):
            assert client.predict("m", b"x").attempts == 1
        assert server.connections == 1


def test_another_scout_is_sent_if_the_first_gets_no_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = hedging.ResponseHistory()
    assert known.allow_scout()
    assert not known.allow_scout()
    monkeypatch.setattr(hedging, "SCOUT_INTERVAL", 0.0)
    assert known.allow_scout()
    monkeypatch.setattr(hedging, "SCOUT_INTERVAL", 5.0)
    known.record(sent=time.monotonic())
    assert known.allow_scout()


def test_each_operation_model_and_version_has_its_own_history() -> None:
    retry_state = RetryState()
    retry_state.history("/predictions/m/1.0").record(sent=5.0)
    assert retry_state.history("/predictions/m/1.0").has_later_response(4.0)
    for other in ("/predictions/m/2.0", "/predictions/m", "/explanations/m/1.0"):
        assert not retry_state.history(other).has_later_response(4.0)


@both
def test_slow_explanations_do_not_affect_predictions(kind: type[Client]) -> None:
    def answer(connection: Connection) -> None:
        while (received := connection.receive()) is not None:
            time.sleep(0.5 if received.path.startswith("/explanations") else 0)
            connection.send(http(body="first"))

    with WireServer(answer) as server, kind(server.url) as client:
        assert client.predict("m", b"x").attempts == 1
        assert client.explain("m", b"x").attempts == 1
        assert server.connections == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_pickled_client_keeps_its_hedging(kind: type[Client]) -> None:
    for hedge in (True, False):
        assert pickle.loads(pickle.dumps(kind("http://h:1", hedge=hedge)))._policy.hedge is hedge
    with pytest.raises(UsageError, match="hedge is 'no': expected True or False"):
        kind("http://h:1", hedge="no")  # type: ignore[arg-type]
