"""No server can delay a call beyond its deadline."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from client_both import both
from client_stalling import (
    LATE,
    SECONDS,
    ends_at_the_deadline,
    full_backlog,
    never_reads,
    silent,
    trickles_body,
    trickles_chunks,
    trickles_headers,
)
from client_wire import QUEUE_FULL, Connection, HTTPServer, WireServer, http, script

from vestal import Client, ConnectionFailed, DeadlineExceeded, UsageError
from vestal.client.base import CallContext
from vestal.client.deadline import DEFAULT, Deadline
from vestal.client.failures import CallErrors
from vestal.client.flow import ApiCall
from vestal.client.retry_state import RetryState
from vestal.client.settings import Addresses
from vestal.client.tokens import NoToken

pytestmark = pytest.mark.heavy


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
def test_a_call_to_a_stalled_server_ends_at_the_deadline(
    kind: type[Client], behave: Callable[[Connection], None], body: bytes, phase: str
) -> None:
    with WireServer(behave) as server, kind(server.url) as client:
        with ends_at_the_deadline() as caught:
            client.predict("m", body, timeout=SECONDS)
        assert phase in str(caught.value)
        assert caught.value.model == "m"
        assert caught.value.attempts == 1


@both
def test_connecting_to_a_full_backlog_ends_at_the_deadline(kind: type[Client]) -> None:
    with full_backlog() as (host, port), kind(f"http://{host}:{port}") as client:
        with ends_at_the_deadline() as caught:
            client.predict("m", b"x", timeout=SECONDS)
        assert "connecting" in str(caught.value)


@both
def test_a_reused_connection_obeys_the_deadline_of_each_call(kind: type[Client]) -> None:
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
def test_reading_an_input_ends_at_the_deadline(
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
def test_a_timeout_beyond_the_limit_means_no_deadline(kind: type[Client], timeout: float) -> None:
    answers = script(QUEUE_FULL, http(200, {}))
    with HTTPServer(answers) as server, kind(server.url, timeout=timeout) as client:
        assert client.predict("m", b"x").value == {}


@both
def test_the_deadline_includes_retries_and_pauses(kind: type[Client]) -> None:
    with HTTPServer(script(QUEUE_FULL)) as server, kind(server.url) as client:
        with ends_at_the_deadline() as caught:
            client.predict("m", b"x", timeout=SECONDS)
        # The server may not have received the last attempt before the deadline.
        assert caught.value.attempts - len(server.received) in (0, 1)
        assert caught.value.attempts > 2
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
def test_the_error_for_an_invalid_timeout_names_it(timeout: float) -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        Client("http://127.0.0.1:1", timeout=timeout)
    with Client("http://127.0.0.1:1") as client, pytest.raises(UsageError, match="timeout is"):
        client.predict("m", b"x", timeout=timeout)


def test_an_error_states_whether_the_request_was_sent() -> None:
    addresses = Addresses("http://h:1", None, None)
    context = CallContext(addresses, NoToken(), Deadline(1), RetryState())
    failed = CallErrors(ApiCall("inference", "POST", "/predictions/m"), "http://h:1", context)
    assert "(before it was sent, 0 attempts)" in str(failed.too_late("before it was sent", 0))
    assert "(before it was sent again, 2 attempts)" in str(failed.too_late("before it was sent", 2))


def _port(sock: socket.socket) -> int:
    """A port in use, without a listener."""
    sock.bind(("127.0.0.1", 0))
    port: int = sock.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("options", "operation", "seconds"),
    [
        ({}, "predict", 30),
        ({}, "register", 120),
        ({}, "wait_ready", 120),
        ({}, "scale", 120),
        ({"timeout": 5}, "register", 5),
        ({"timeout": None}, "register", None),
    ],
)
def test_calls_that_wait_for_workers_have_a_longer_default(options, operation, seconds):
    with Client("http://127.0.0.1:1", **options) as client:
        assert client._begin(DEFAULT, operation).deadline.seconds == seconds
        assert client._begin(2, operation).deadline.seconds == 2
