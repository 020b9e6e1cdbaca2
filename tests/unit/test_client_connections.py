"""Connections are reused, shared by threads, separated by forks, and closed."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from client_both import both, predictions
from client_wire import HTTPServer, Received, error, http, until

from vestal import Client, ClientError, InvalidInput, Prediction, RequestRefused, UsageError


def echo(request: Received) -> bytes:
    if request.body == b"bad":
        return error(400, "InputError", "bad")
    return http(200, {"echo": request.body.decode(), "connection": request.connection})


@both
def test_calls_of_one_thread_share_a_connection(kind: type[Client]) -> None:
    with HTTPServer(echo) as server, kind(server.url) as client:
        for _ in range(10):
            client.predict("m", b"x")
        assert server.connections == 1


@both
def test_predict_many_keeps_the_order_and_returns_errors(kind: type[Client]) -> None:
    inputs = [b"a", b"bad", b"c", None, b"e"]
    with HTTPServer(echo) as server, kind(server.url) as client:
        results = client.predict_many("m", inputs, concurrency=3)
    assert [r["echo"] for r in results if not isinstance(r, ClientError)] == ["a", "c", "e"]
    assert [type(results[1]), type(results[3])] == [RequestRefused, InvalidInput]


@both
def test_predict_many_bounds_concurrency_and_reads_inputs_lazily(kind: type[Client]) -> None:
    running = most = ahead = 0
    lock = threading.Lock()

    def count(request: Received) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        until(lambda: most == 4)
        with lock:
            running -= 1
        return echo(request)

    with HTTPServer(count) as server, kind(server.url) as client:

        def inputs() -> Iterator[bytes]:
            nonlocal ahead
            for number in range(40):
                ahead = max(ahead, number - len(server.received))
                yield str(number).encode()

        results = client.predict_many("m", inputs(), concurrency=4)
        assert server.connections <= 4
    assert [int(result["echo"]) for result in predictions(results)] == list(range(40))
    assert most == 4
    assert ahead <= 4


@both
def test_predict_many_raises_the_error_of_the_inputs(kind: type[Client]) -> None:
    def inputs() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("no more")

    with HTTPServer(echo) as server, kind(server.url) as client:
        with pytest.raises(RuntimeError, match="no more"):
            client.predict_many("m", inputs())
        assert client.predict_many("m", []) == []


@both
@pytest.mark.parametrize(
    "inputs",
    ["text", b"bytes", bytearray(b"b"), {"a": 1}, Path("a.png"), 3, np.array(1), io.BytesIO(b"b")],
    ids=lambda value: type(value).__name__,
)
def test_predict_many_rejects_a_single_input(kind: type[Client], inputs: Any) -> None:
    with kind("http://127.0.0.1:1") as client:
        with pytest.raises(UsageError, match="expected a list"):
            client.predict_many("m", inputs)
        invalid: tuple[Any, ...] = (0, "3", 1.5, True, None)
        for concurrency in invalid:
            with pytest.raises(UsageError, match=f"concurrency is {concurrency!r}"):
                client.predict_many("m", [b"x"], concurrency=concurrency)


@both
def test_predict_many_sends_the_rows_of_a_table(kind: type[Client]) -> None:
    table = pd.DataFrame({"bmi": [0.5, 1.5], "sex": [1, 2]})
    with HTTPServer(echo) as server, kind(server.url) as client:
        results = client.predict_many("m", table)
    rows = [json.loads(result["echo"]) for result in predictions(results)]
    assert rows == [{"bmi": 0.5, "sex": 1}, {"bmi": 1.5, "sex": 2}]


@both
def test_an_input_that_raises_any_error_does_not_stop_the_others(kind: type[Client]) -> None:
    class Broken:
        def read(self) -> bytes:
            raise RuntimeError("out of paper")

    with HTTPServer(echo) as server, kind(server.url) as client:
        results = client.predict_many("m", [b"a", Broken(), b"c"], version="2.0")
    assert [type(results[0]), type(results[2])] == [Prediction, Prediction]
    failed = results[1]
    assert isinstance(failed, InvalidInput)
    assert "out of paper" in str(failed)
    assert isinstance(failed.__cause__, RuntimeError)
    assert (failed.model, failed.version) == ("m", "2.0")


@both
def test_progress_is_reported_while_predict_many_waits_for_an_input(
    kind: type[Client],
) -> None:
    reported: list[int] = []

    def inputs() -> Iterator[bytes]:
        yield from [b"x"] * 20
        if kind is Client:  # an event loop reads the inputs itself
            until(lambda: len(reported) == 20)

    with HTTPServer(echo) as server, kind(server.url) as client:
        client.predict_many(
            "m", inputs(), concurrency=8, progress=lambda done, _: reported.append(done)
        )
    assert reported == list(range(1, 21))


@both
def test_threads_share_a_client(kind: type[Client]) -> None:
    # A second copy, on a busy machine, would open one more connection.
    with HTTPServer(echo) as server, kind(server.url, hedge=False) as client:
        results = client.predict_many("m", [str(n) for n in range(200)], concurrency=16)
        assert [int(result["echo"]) for result in predictions(results)] == list(range(200))
        assert server.connections <= 16


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_after_a_fork_has_its_own_connections() -> None:
    with HTTPServer(echo) as server, Client(server.url) as client:
        first = client.predict("m", b"parent")
        child = os.fork()
        if child == 0:
            try:
                answer = client.predict("m", b"child", timeout=5)
                client.close()
                os._exit(0 if answer["connection"] != first["connection"] else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.predict("m", b"parent")["connection"] == first["connection"]


def test_a_closed_client_raises_and_can_be_closed_again() -> None:
    with HTTPServer(echo) as server:
        client = Client(server.url)
        client.predict("m", b"x")
        client.close()
        client.close()
        with pytest.raises(UsageError, match="closed"):
            client.predict("m", b"x")
