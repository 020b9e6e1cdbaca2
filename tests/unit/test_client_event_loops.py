"""The asynchronous client: event loops, forks, files, uploads and the limit of its connections."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from client_wire import Connection, HTTPServer, Received, WireServer, error, http, until

from vestal import (
    AsyncClient,
    ClientError,
    DeadlineExceeded,
    Prediction,
    ServerFailed,
    UsageError,
)


def echo(request: Received) -> bytes:
    if request.body == b"bad":
        return error(400, "InputError", "bad")
    return http(200, {"echo": request.body.decode(), "connection": request.connection})


def test_a_file_is_read_outside_the_event_loop(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write_late() -> None:
        with pipe.open("wb") as file:
            time.sleep(0.3)
            file.write(b"late")

    async def call(url: str) -> object:
        async with AsyncClient(url) as client:
            both = asyncio.create_task(client.predict("m", pipe)), client.predict("m", b"first")
            await asyncio.sleep(0)
            first = await both[1]
            assert not both[0].done()
            return first["echo"], (await both[0])["echo"]

    writer = threading.Thread(target=write_late)
    writer.start()
    with HTTPServer(echo) as server:
        assert asyncio.run(call(server.url)) == ("first", "late")
    writer.join()


def test_a_closed_asynchronous_client_raises_and_can_be_closed_again() -> None:
    async def call(url: str) -> None:
        client = AsyncClient(url)
        await client.predict("m", b"x")
        await client.close()
        await client.close()
        with pytest.raises(UsageError, match="closed"):
            await client.predict("m", b"x")

    with HTTPServer(echo) as server:
        asyncio.run(call(server.url))


def test_a_client_closed_in_one_event_loop_works_in_another() -> None:
    async def call() -> object:
        answer = await client.predict("m", b"x")
        await client.close()
        return answer["connection"]

    with HTTPServer(echo) as server:
        client = AsyncClient(server.url)
        assert [asyncio.run(call()) for _ in range(2)] == [1, 2]


def test_an_unused_client_can_be_closed() -> None:
    async def close() -> None:
        await AsyncClient("http://127.0.0.1:1").close()

    asyncio.run(close())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_after_a_fork_has_its_own_connections() -> None:
    async def call(client: AsyncClient, body: bytes) -> int:
        number: int = (await client.predict("m", body, timeout=5))["connection"]
        return number

    with HTTPServer(echo) as server:
        client = AsyncClient(server.url)
        with asyncio.Runner() as runner:
            first = runner.run(call(client, b"parent"))
            child = os.fork()
            if child == 0:
                try:
                    asyncio.events._set_running_loop(None)
                    with asyncio.Runner() as own:
                        other = own.run(call(client, b"child"))
                        own.run(client.close())
                    os._exit(0 if other != first else 1)
                except BaseException:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert runner.run(call(client, b"parent")) == first
            runner.run(client.close())


def test_a_large_upload_is_received_unchanged() -> None:
    body = bytes(range(256)) * 2000
    with HTTPServer(lambda r: http(200, {"same": r.body == body})) as server:

        async def call() -> Prediction:
            async with AsyncClient(server.url) as client:
                return await client.predict("m", body)

        assert asyncio.run(call()).value == {"same": True}


def test_a_host_that_does_not_resolve_is_not_retried() -> None:
    async def call() -> None:
        async with AsyncClient("http://nobody.invalid:1") as client:
            await client.predict("m", b"x", timeout=20)

    with pytest.raises(ClientError, match="connecting") as caught:
        asyncio.run(call())
    assert caught.value.attempts == 1


def test_connections_are_limited_and_calls_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestal.client.async_pool.CONNECTIONS", 4)
    now = most = hanging = 0
    lock = threading.Lock()

    def behave(connection: Connection) -> None:
        nonlocal now, most, hanging
        with lock:
            now += 1
            most = max(most, now)
        while (request := connection.receive()) is not None:
            if request.body == b"silent":
                with lock:
                    hanging += 1
                connection.hang()
            connection.send(http(500 if request.body == b"bad" else 200, {}))
        with lock:
            now -= 1

    async def main(url: str) -> None:
        async with AsyncClient(url, timeout=20) as client:
            inputs = [b"bad", b"good"] * 20
            results = await asyncio.gather(
                *(client.predict("m", each) for each in inputs), return_exceptions=True
            )
            assert [type(result) is ServerFailed for result in results] == [True, False] * 20
            silent = [asyncio.create_task(client.predict("m", b"silent")) for _ in range(4)]
            await asyncio.to_thread(until, lambda: hanging == 4)
            with pytest.raises(DeadlineExceeded, match="waiting for one of 4 connections"):
                await client.predict("m", b"good", timeout=0.3)
            for task in silent:
                task.cancel()
            await asyncio.gather(*silent, return_exceptions=True)
            assert (await client.predict("m", b"good")).value == {}

    with WireServer(behave) as server:
        asyncio.run(main(server.url))
    assert most <= 5  # a connection that was closed here may not be closed there yet
