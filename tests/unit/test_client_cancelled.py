"""A cancelled call ends at once and leaves a usable client without open connections."""

from __future__ import annotations

import asyncio
import threading

from client_wire import Connection, WireServer, http, until

from vestal import (
    AsyncClient,
)


def test_a_cancelled_call_ends_at_once_and_leaves_the_client_usable() -> None:
    received = threading.Event()

    def silent_once(connection: Connection) -> None:
        first = connection.receive()
        if first is not None and first.path == "/predictions/slow":
            received.set()
            connection.hang()
        else:
            connection.send(http(200, {}))

    async def cancel(url: str) -> None:
        async with AsyncClient(url, timeout=60) as client:
            task = asyncio.create_task(client.predict("slow", b"x"))
            assert await asyncio.to_thread(received.wait, 20)
            task.cancel()
            await asyncio.wait([task], timeout=30)  # the server hangs, the deadline is in 60 s
            assert task.cancelled()
            assert (await client.predict("m", b"x")).value == {}

    with WireServer(silent_once) as server:
        asyncio.run(cancel(server.url))


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

    async def cancel(url: str) -> None:
        async with AsyncClient(url) as client:
            for number in range(240):
                call = asyncio.create_task(client.predict("m", b"x"))
                for _ in range(number % 24):  # cut at each of its steps
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            await client.predict("m", b"last")
            await asyncio.to_thread(until, lambda: there == 1)

    with WireServer(silent_but_for_the_last) as server:
        asyncio.run(cancel(server.url))


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
