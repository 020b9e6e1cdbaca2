"""The two clients have the same names, arguments and errors."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_both import both
from client_wire import Connection, HTTPServer, Received, WireServer, error, http, until

import vestal
from vestal import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    RequestRefused,
    ServerFailed,
    UsageError,
)
from vestal.client.tokens import FixedToken, KeyFile


def echo(request: Received) -> bytes:
    if request.body == b"bad":
        return error(400, "InputError", "bad")
    return http(200, {"echo": request.body.decode(), "connection": request.connection})


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def test_both_have_the_same_methods_with_the_same_arguments() -> None:
    assert public(Client) == public(AsyncClient)
    for name in ["__init__", *public(Client)]:
        sync, other = getattr(Client, name), getattr(AsyncClient, name)
        ours, theirs = inspect.signature(sync), inspect.signature(other)
        assert name == "__init__" or (sync.__doc__ and other.__doc__), name
        if name == "iter_predictions":  # an asynchronous iterator, which takes such inputs too
            assert list(ours.parameters) == list(theirs.parameters)
            continue
        assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
        assert ours.return_annotation == theirs.return_annotation, name
        assert inspect.iscoroutinefunction(other) == (name != "__init__"), name


def test_both_come_in_the_same_order() -> None:
    names = {
        kind: [name for name in vars(kind) if not name.startswith("_")]
        for kind in (Client, AsyncClient)
    }
    assert names[Client] == names[AsyncClient]


def test_every_name_of_the_package_is_there() -> None:
    assert vestal.__all__ == sorted(vestal.__all__)
    # Constants first, as ruff sorts.
    names = sorted(vestal.client.__all__, key=lambda name: (not name.isupper(), name))
    assert vestal.client.__all__ == names
    assert set(vestal.client.__all__) <= set(dir(vestal.client))
    assert set(vestal.__all__) <= set(dir(vestal))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        vestal.Nothing  # noqa: B018


def test_without_httpx_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    monkeypatch.delitem(sys.modules, "vestal.client.async_pool", raising=False)
    monkeypatch.delitem(sys.modules, "vestal.client.async_transport", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'vestal\[async\]'"):
        AsyncClient("http://127.0.0.1:1")


@both
def test_progress_is_called_after_each_result(kind: type[Client]) -> None:
    told: list[tuple[int, int | None]] = []
    with HTTPServer(echo) as server, kind(server.url) as client:
        client.predict_many("m", [b"a", b"bad", b"c"], progress=lambda *args: told.append(args))
        assert told == [(1, 3), (2, 3), (3, 3)]
        client.predict_many("m", (b for b in [b"a"]), progress=lambda *args: told.append(args))
        assert told[3:] == [(1, None)]


@both
def test_a_progress_that_fails_ends_it_all(kind: type[Client]) -> None:
    def fail(done: int, total: int | None) -> None:
        raise RuntimeError("no more")

    with HTTPServer(echo) as server, kind(server.url) as client:
        with pytest.raises(RuntimeError, match="no more"):
            client.predict_many("m", [b"a"] * 100, concurrency=2, progress=fail)
        assert len(server.received) < 10


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


def test_closed_in_one_event_loop_it_serves_in_another() -> None:
    async def call() -> object:
        answer = await client.predict("m", b"x")
        await client.close()
        return answer["connection"]

    with HTTPServer(echo) as server:
        client = AsyncClient(server.url)
        assert [asyncio.run(call()) for _ in range(2)] == [1, 2]


def test_one_that_never_called_can_be_closed() -> None:
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


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_pickled_a_client_is_its_configuration(kind: type[Client], tmp_path: Path) -> None:
    keys = tmp_path / "key_file.json"
    keys.write_text('{"inference": {"key": "s3cr3t"}}')
    client = kind("http://h:1", management="http://h:2", key_file=keys, timeout=7)
    client._tokens.get("inference")
    pickled = pickle.dumps(client)
    assert b"s3cr3t" not in pickled
    again = pickle.loads(pickled)
    assert type(again) is kind
    assert repr(again) == repr(client)
    assert again._policy.timeout == 7
    assert isinstance(again._tokens, KeyFile)
    assert again._tokens.get("inference") == "s3cr3t"
    with_token = pickle.loads(pickle.dumps(kind("http://h:1", token="t0ken")))
    assert isinstance(with_token._tokens, FixedToken)
    assert with_token._tokens.get("inference") == "t0ken"


def test_an_error_is_pickled_with_its_facts() -> None:
    with (
        HTTPServer(echo) as server,
        Client(server.url) as client,
        pytest.raises(RequestRefused) as caught,
    ):
        client.predict("m", b"bad")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.status, again.model, str(again)) == (400, "m", str(caught.value))
    assert again.correlation_id == caught.value.correlation_id


def test_a_client_works_in_another_process() -> None:
    with HTTPServer(echo) as server, Client(server.url) as client:
        code = (
            "import pickle, sys\n"
            "with pickle.loads(sys.stdin.buffer.read()) as client:\n"
            "    print(client.predict('m', b'there')['echo'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(client), capture_output=True
        )
    assert done.stdout == b"there\n", done.stderr.decode()


def test_an_upload_that_is_read_to_its_end_is_sent_in_pieces() -> None:
    body = bytes(range(256)) * 2000
    with HTTPServer(lambda r: http(200, {"same": r.body == body})) as server:

        async def call() -> object:
            async with AsyncClient(server.url) as client:
                return await client.predict("m", body)

        assert asyncio.run(call()).value == {"same": True}


def test_a_name_that_does_not_resolve_is_not_tried_again() -> None:
    async def call() -> None:
        async with AsyncClient("http://nobody.invalid:1") as client:
            await client.predict("m", b"x", timeout=20)

    started = time.monotonic()
    with pytest.raises(ClientError, match="connecting"):
        asyncio.run(call())
    assert time.monotonic() - started < 10


@both
def test_a_file_object_that_cannot_be_rewound_is_buffered(kind: type[Client]) -> None:
    class Once:
        """A stream as a socket's: it can be read, not rewound."""

        def __init__(self) -> None:
            self.reads = 0

        def read(self) -> bytes:
            self.reads += 1
            return b"content" if self.reads == 1 else b""

    answers = iter([error(503, "ServiceUnavailableException", "busy"), http(200, {})])
    stream = Once()
    with HTTPServer(lambda _: next(answers)) as server, kind(server.url) as client:
        assert client.predict("m", stream).attempts == 2
        assert [request.body for request in server.received] == [b"content"] * 2
    assert stream.reads == 1


@both
def test_many_read_their_inputs_late(kind: type[Client]) -> None:
    ahead = 0

    def inputs() -> Iterator[bytes]:
        nonlocal ahead
        for number in range(30):
            ahead = max(ahead, number - len(server.received))
            yield str(number).encode()

    with HTTPServer(echo) as server, kind(server.url) as client:
        client.predict_many("m", inputs(), concurrency=3)
    assert ahead <= 3


def test_connections_have_a_cap_and_calls_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestal.client.async_pool.CONNECTIONS", 4)
    now = most = 0
    lock = threading.Lock()

    def behave(connection: Connection) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        while (request := connection.receive()) is not None:
            if request.body == b"silent":
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
            await asyncio.sleep(0.3)
            with pytest.raises(DeadlineExceeded, match="waiting for one of 4 connections"):
                await client.predict("m", b"good", timeout=0.3)
            for task in silent:
                task.cancel()
            await asyncio.gather(*silent, return_exceptions=True)
            assert (await client.predict("m", b"good")).value == {}

    with WireServer(behave) as server:
        asyncio.run(main(server.url))
    assert most <= 5  # a connection that was closed here may not be closed there yet
