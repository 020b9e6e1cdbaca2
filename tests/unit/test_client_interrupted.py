"""Ctrl-C ends a call and its process at once, even with requests in flight."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest
from client_wire import Connection, WireServer, http, until

from vestal import Client

pytestmark = pytest.mark.heavy

CALLS = {
    "Client.predict_many": """
from vestal import Client
with Client(sys.argv[1], timeout=60) as client:
    client.predict_many("m", [b"x"] * 20, concurrency=4)
""",
    "Client.predict_many with a generator": """
from vestal import Client
with Client(sys.argv[1], timeout=None) as client:
    client.predict_many("m", (b"x" for _ in range(20)), concurrency=4)
""",
    "Client.predict": """
from vestal import Client
with Client(sys.argv[1], timeout=60) as client:
    client.predict("m", b"x")
""",
    "AsyncClient.predict_many": """
import asyncio
from vestal import AsyncClient
async def main():
    async with AsyncClient(sys.argv[1], timeout=60) as client:
        await client.predict_many("m", [b"x"] * 20, concurrency=4)
asyncio.run(main())
""",
    "vestal predict": """
from vestal.cli import main
sys.argv[1:] = ["predict", "m", "--url", sys.argv[1], *["--text", "x"] * 20]
main()
""",
}


@pytest.mark.parametrize("code", CALLS.values(), ids=CALLS)
def test_ctrl_c_ends_the_process_at_once(code: str) -> None:
    received = threading.Semaphore(0)

    def silent(connection: Connection) -> None:
        connection.receive()
        received.release()
        connection.hang()

    with WireServer(silent) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys\n{code}", server.url], stderr=subprocess.PIPE
        )
        try:
            assert received.acquire(timeout=30)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)  # of 60, or never
        finally:
            process.kill()
    assert process.returncode != 0
    assert b"Exception ignored" not in errors


def test_an_error_raised_by_progress_ends_the_call() -> None:
    ended = threading.Event()

    def behave(connection: Connection) -> None:
        request = connection.receive()
        assert request is not None
        if request.body == b"slow":
            ended.wait(20)
        connection.send(http(200, {}))

    calls = []

    def progress(done: int, total: int | None) -> None:
        calls.append(done)
        raise ZeroDivisionError

    with WireServer(behave) as server, Client(server.url, timeout=30) as client:
        with pytest.raises(ZeroDivisionError):
            client.predict_many("m", [b"slow", b"quick"], concurrency=2, progress=progress)
        assert not ended.is_set()
        ended.set()
        until(lambda: not [t for t in threading.enumerate() if t.name == "vestal-work"])
        time.sleep(0.05)
    assert calls == [1]
