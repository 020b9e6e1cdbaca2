"""A process of client_pace: callers of one client, which PYTHONPATH selects.

The argument is JSON: "burst" or "steady", and the arguments of that function. The process prints
its rows as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from urllib3 import HTTPConnectionPool

from vestal import AsyncClient, Client, ClientError

SERVICE = b"0.004"
"""Seconds that the handler takes for a request: 500 of them take 2 s."""


def wait_for_the_other_processes() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def burst(addresses: dict[str, Any], model: str, calls: int, kind: str) -> list[dict[str, Any]]:
    """Send the calls at once from one client; return a row for each."""

    async def all_at_once() -> list[dict[str, Any]]:
        async with AsyncClient(**addresses, timeout=60) as client:

            async def call() -> dict[str, Any]:
                began = time.monotonic()
                try:
                    attempts, error = (await client.predict(model, SERVICE)).attempts, ""
                except ClientError as raised:
                    attempts, error = raised.attempts, type(raised).__name__
                return {"seconds": time.monotonic() - began, "attempts": attempts, "error": error}

            await client.predict(model, SERVICE)
            wait_for_the_other_processes()
            return await asyncio.gather(*(call() for _ in range(calls)))

    if kind == "AsyncClient":
        return asyncio.run(all_at_once())
    gate = threading.Barrier(calls, action=wait_for_the_other_processes)
    with Client(**addresses, timeout=60) as client, ThreadPoolExecutor(calls) as pool:
        client.predict(model, SERVICE)

        def call(_: int) -> dict[str, Any]:
            gate.wait()
            began = time.monotonic()
            try:
                attempts, error = client.predict(model, SERVICE).attempts, ""
            except ClientError as raised:
                attempts, error = raised.attempts, type(raised).__name__
            return {"seconds": time.monotonic() - began, "attempts": attempts, "error": error}

        return list(pool.map(call, range(calls)))


def steady(addresses: dict[str, Any], model: str, callers: int) -> list[dict[str, Any]]:
    """Call in a closed loop until standard input ends; return a row for each attempt and call."""
    rows: list[dict[str, Any]] = []
    send = HTTPConnectionPool.urlopen

    def counted(self: Any, method: str, url: str, *args: Any, **options: Any) -> Any:
        rows.append({"at": time.time(), "what": "attempt"})
        return send(self, method, url, *args, **options)

    HTTPConnectionPool.urlopen = counted  # type: ignore[method-assign]
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                client.predict(model, b"0.02")
                rows.append({"at": time.time(), "what": "answer"})
            except ClientError as error:
                rows.append({"at": time.time(), "what": type(error).__name__})

    with Client(**addresses, timeout=120) as client:
        threads = [threading.Thread(target=call) for _ in range(callers)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stop.set()
        for thread in threads:
            thread.join()
    return rows


def main() -> None:
    name, *arguments = json.loads(sys.argv[1])
    functions: dict[str, Callable[..., object]] = {"burst": burst, "steady": steady}
    print(json.dumps(functions[name](*arguments)))


if __name__ == "__main__":
    main()
