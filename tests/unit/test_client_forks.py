"""After a fork, parent and child have connections, budgets and locks of their own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from client_wire import HTTPServer, Received, http

from vestal import AsyncClient, Client, ClientError
from vestal.client import renewal

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
THREADS = 16
CALLS = 10


def echo(request: Received) -> bytes:
    return http(200, {"echo": request.body.decode()})


def in_child(act: Callable[[], object], seconds: float = 30) -> object:
    """Return the result of `act` in a child process; None if the child did not end in time."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = act()
        except BaseException as raised:
            result = repr(raised)
        os.write(write, json.dumps(result).encode())
        os._exit(0)
    os.close(write)
    killer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    killer.start()
    with os.fdopen(read) as pipe:
        text = pipe.read()
    killer.cancel()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


Calls = Callable[[list[str]], list[object]]


def call_in_threads(calls: Calls, name: str) -> list[str]:
    """Send texts from many threads at once; return those that got a wrong response."""
    wrong: list[str] = []

    def run(thread: int) -> None:
        texts = [f"{name} {thread} {number}" for number in range(CALLS)]
        try:
            answers = calls(texts)
            wrong.extend(f"{t}: {a}" for t, a in zip(texts, answers, strict=True) if a != t)
        except ClientError as error:
            wrong.append(f"{name} {thread}: {error}")

    threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def check_fork(calls: Calls) -> None:
    """Fork while many threads call; then call from many threads of parent and child."""
    assert call_in_threads(calls, "before") == []
    parent: list[str] = []
    caller = threading.Thread(target=lambda: parent.extend(call_in_threads(calls, "parent")))
    caller.start()
    child = in_child(lambda: call_in_threads(calls, "child"))
    caller.join()
    assert (child, parent) == ([], [])


def test_no_process_gets_the_response_to_a_request_of_another() -> None:
    with HTTPServer(echo) as server, Client(server.url, timeout=10) as client:
        for _ in range(2):
            check_fork(lambda texts: [client.predict("m", text.encode())["echo"] for text in texts])


def test_no_process_gets_the_response_to_a_request_of_another_async() -> None:
    with HTTPServer(echo) as server:
        client = AsyncClient(server.url, timeout=10)

        async def calls(texts: list[str]) -> list[object]:
            async with client:
                return [(await client.predict("m", text.encode()))["echo"] for text in texts]

        check_fork(lambda texts: asyncio.run(calls(texts)))


CHILD_ENDS = """
import os, signal, sys, threading
from vestal import Client

with Client(sys.argv[1], timeout=5) as client:
    client.predict("m", b"parent")
    transport, state = client._transport, client._retry_state
    queues = [route.pool.pool for route in transport._adapter.routes.values()]
    locks = [transport._lock, state.budget._lock, state.waiting_calls._lock]
    locks += [queue.mutex for queue in queues if hasattr(queue, "mutex")]
    held, over = threading.Event(), threading.Event()

    def hold():
        for lock in locks:
            lock.acquire()
        held.set()
        over.wait()
        for lock in locks:
            lock.release()

    threading.Thread(target=hold).start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends it where it hangs
        assert client.predict("m", b"child").value == {"echo": "child"}
        sys.exit(3)  # ends as a process does that was never forked
    status = os.waitpid(child, 0)[1]
    over.set()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_lock_held_during_a_fork_blocks_neither_calls_nor_exit() -> None:
    with HTTPServer(echo) as server:
        command = [sys.executable, "-W", "ignore", "-c", CHILD_ENDS, server.url]
        ended = subprocess.run(command, capture_output=True, timeout=20, text=True)
    assert (ended.returncode, ended.stderr) == (3, "")


def test_a_closed_client_stays_closed_in_a_child() -> None:
    client = Client("http://127.0.0.1:1")
    client.close()
    assert "closed" in str(in_child(lambda: client.predict("m", b"x")))


def test_the_lock_of_a_renewal_ends_with_the_process_that_took_it(tmp_path: Path) -> None:
    def locked() -> bool:
        with renewal._lock(tmp_path / "key_file.json") as held:
            return held is False

    read, write = os.pipe()
    owner = os.fork()
    if owner == 0:
        locks = [renewal._lock(tmp_path / "key_file.json")]
        locks[0].__enter__()
        if os.fork() == 0:
            locks.clear()  # ends the block in the child
            gc.collect()
            os.write(write, str(os.getpid()).encode())
        threading.Event().wait()
    child = int(os.read(read, 10))
    try:
        before = locked()
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        assert (before, locked()) == (True, False)
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(read)
        os.close(write)
