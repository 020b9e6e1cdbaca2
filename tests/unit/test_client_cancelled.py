"""A cancelled call ends at once and leaves a usable client without open connections."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from client_wire import Connection, WireServer, http, until

from vestal import (
    AsyncClient,
)


def test_a_cancelled_call_ends_at_once_and_leaves_the_client_usable() -> None:
    def silent_once(connection: object) -> None:
        first = connection.receive()  # type: ignore[attr-defined]
        if first.path == "/predictions/slow":
            connection.hang()  # type: ignore[attr-defined]
        else:
            connection.send(http(200, {}))  # type: ignore[attr-defined]

    async def cancel(url: str) -> float:
        async with AsyncClient(url) as client:
            task = asyncio.create_task(client.predict("slow", b"x"))
            await asyncio.sleep(0.1)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.predict("m", b"x")).value == {}
            return time.monotonic() - started

    with WireServer(silent_once) as server:
        assert asyncio.run(cancel(server.url)) < 0.5


def test_many_cancelled_calls_leave_no_connection_and_a_usable_client() -> None:
    lock = threading.Lock()
    there = 0

    def silent_but_for_the_last(connection: Connection) -> None:
        nonlocal there
        with lock:
            there += 1
        while (request := connection.receive()) is not None:
            if request.body == b"last":
                connection.send(http(200, {}))
        with lock:
            there -= 1

    async def cancel(url: str) -> float:
        async with AsyncClient(url) as client:
            for number in range(240):
                call = asyncio.create_task(client.predict("m", b"x"))
                for _ in range(number % 24):  # cut at each of its steps
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            started = time.monotonic()
            await client.predict("m", b"last")
            elapsed = time.monotonic() - started
            await asyncio.to_thread(until, lambda: there == 1)
            return elapsed

    with WireServer(silent_but_for_the_last) as server:
        assert asyncio.run(cancel(server.url)) < 0.5


def test_a_call_that_is_cancelled_in_its_handshake_leaves_no_connection() -> None:
    gone = threading.Event()
    greeted = threading.Event()

    def never_shakes_hands(connection: Connection) -> None:
        while connection.sock.recv(1000):
            greeted.set()
        gone.set()

    async def cancel(url: str) -> None:
        async with AsyncClient(url) as client:
            call = asyncio.create_task(client.predict("m", b"x"))
            await asyncio.to_thread(greeted.wait, 10)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert await asyncio.to_thread(gone.wait, 10)

    with WireServer(never_shakes_hands) as server:
        asyncio.run(cancel(server.url.replace("http:", "https:")))
