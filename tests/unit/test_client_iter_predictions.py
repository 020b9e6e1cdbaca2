"""`iter_predictions` reads a stream of inputs as its results are taken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count, islice
from queue import Queue
from typing import Any

import pandas as pd
import pytest
from client_wire import HTTPServer, Received, error, http, until

from vestal import AsyncClient, Client, ClientError, RequestRefused, UsageError


def echo(request: Received) -> bytes:
    if request.body == b"bad":
        return error(400, "InputError", "bad")
    return http(200, {"echo": request.body.decode()})


def stream_sync(url: str, inputs: Iterable[Any], take: int | None = None, **options: Any) -> Any:
    with Client(url) as client:
        return list(islice(client.iter_predictions("m", inputs, **options), take))


def stream_async(url: str, inputs: Iterable[Any], take: int | None = None, **options: Any) -> Any:
    async def collect() -> list[Any]:
        results: list[Any] = []
        async with AsyncClient(url) as client:
            stream = client.iter_predictions("m", inputs, **options)
            try:
                async for result in stream:
                    results.append(result)
                    if len(results) == take:
                        break
            finally:
                await stream.aclose()  # type: ignore[attr-defined]
        return results

    return asyncio.run(collect())


streams = pytest.mark.parametrize("stream", [stream_sync, stream_async], ids=["sync", "async"])


@streams
def test_results_come_in_the_order_of_the_inputs(stream: Any) -> None:
    slow = threading.Event()

    def answer(request: Received) -> bytes:
        if request.body == b"0":
            slow.wait(5)  # until those after it have responses
        elif request.body == b"5":
            slow.set()
        return echo(request)

    with HTTPServer(answer) as server:
        results = stream(server.url, (str(n).encode() for n in range(30)), concurrency=8)
    assert [result["echo"] for result in results] == [str(n) for n in range(30)]


@streams
def test_an_input_that_fails_yields_its_error(stream: Any) -> None:
    with HTTPServer(echo) as server:
        first, failed, last = stream(server.url, [b"a", b"bad", b"b"])
    assert (first["echo"], last["echo"]) == ("a", "b")
    assert isinstance(failed, RequestRefused)


@streams
def test_an_endless_stream_is_read_at_most_concurrency_ahead(stream: Any) -> None:
    read: list[int] = []

    def inputs() -> Iterator[bytes]:
        for number in count():
            read.append(number)
            yield str(number).encode()

    with HTTPServer(echo) as server:
        results = stream(server.url, inputs(), take=10, concurrency=4)
    assert [result["echo"] for result in results] == [str(n) for n in range(10)]
    assert len(read) <= 14


@streams
def test_an_error_of_the_inputs_is_raised_after_the_results_before_it(stream: Any) -> None:
    def inputs() -> Iterator[bytes]:
        yield b"a"
        raise OSError("the source broke")

    with HTTPServer(echo) as server, pytest.raises(OSError, match="the source broke"):
        stream(server.url, inputs())
    assert [request.body for request in server.received] == [b"a"]


@streams
def test_rows_of_a_table_are_inputs(stream: Any) -> None:
    with HTTPServer(echo) as server:
        results = stream(server.url, pd.DataFrame({"a": [1, 2]}))
    assert [result["echo"] for result in results] == ['{"a":1}', '{"a":2}']


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_invalid_arguments_are_refused_before_the_first_result(kind: Any) -> None:
    client = kind("http://127.0.0.1:1")
    with pytest.raises(UsageError, match="concurrency is 0"):
        client.iter_predictions("m", [], concurrency=0)
    with pytest.raises(UsageError, match="inputs is one str: expected a list of inputs"):
        client.iter_predictions("m", "text")


def test_a_result_is_yielded_while_the_source_has_no_next_input() -> None:
    source: Queue[bytes | None] = Queue()
    with HTTPServer(echo) as server, Client(server.url) as client:
        results = client.iter_predictions("m", iter(source.get, None))
        source.put(b"a")
        assert next(results)["echo"] == "a"  # type: ignore[index]
        source.put(b"b")
        assert next(results)["echo"] == "b"  # type: ignore[index]
        source.put(None)
        assert list(results) == []


def test_the_thread_of_an_abandoned_stream_ends() -> None:
    before = set(threading.enumerate())
    with HTTPServer(echo) as server, Client(server.url) as client:
        results = client.iter_predictions("m", (b"x" for _ in count()), concurrency=2)
        next(results)
        del results
        until(lambda: not any(t.name == "vestal-work" for t in threading.enumerate()))
    assert set(threading.enumerate()) <= before


def test_asynchronous_inputs_are_read_as_results_are_taken() -> None:
    async def call() -> list[Any]:
        source: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def inputs() -> AsyncIterator[bytes]:
            while (value := await source.get()) is not None:
                yield value

        async with AsyncClient(server.url) as client:
            stream = client.iter_predictions("m", inputs())
            source.put_nowait(b"a")
            first = await anext(stream)
            source.put_nowait(b"b")
            source.put_nowait(None)
            return [first, *[result async for result in stream]]

    with HTTPServer(echo) as server:
        results = asyncio.run(call())
    assert [result["echo"] for result in results] == ["a", "b"]
    assert not any(isinstance(result, ClientError) for result in results)
