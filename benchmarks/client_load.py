"""Load for the client's chaos: many callers of either client; every call is recorded."""

from __future__ import annotations

import asyncio
import collections
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vestal import AsyncClient, Client, ClientError


@dataclass(frozen=True)
class Row:
    """One call. `at`: seconds since the load began; `error`: the type, empty for a response."""

    at: float
    seconds: float
    timeout: float
    attempts: int
    error: str = ""
    text: str = ""
    marked: bool = False
    setting: str = ""


@dataclass
class Load:
    """Calls a model from many threads until it is stopped, and records every call."""

    client: Client
    model: str
    concurrency: int = 16
    body: bytes = b"0.02"
    timeout: Callable[[], float] = lambda: 60.0
    rows: list[Row] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.started = time.monotonic()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(self.concurrency)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.rows.append(self.call(self.body, self.timeout()))

    def call(self, body: bytes, timeout: float, *, marked: bool = False) -> Row:
        began = time.monotonic()
        error, text = "", ""
        try:
            attempts = self.client.predict(self.model, body, timeout=timeout).attempts
        except ClientError as raised:
            attempts, error, text = raised.attempts, type(raised).__name__, str(raised)
        took = time.monotonic() - began
        return Row(began - self.started, took, timeout, attempts, error, text, marked)

    def summary(self, **more: object) -> dict[str, Any]:
        times = sorted(row.seconds for row in self.rows)
        return {
            "calls": len(times),
            "errors": dict(collections.Counter(row.error for row in self.rows if row.error)),
            "p50_ms": round(1000 * statistics.median(times), 1),
            "p99_ms": round(1000 * times[int(0.99 * (len(times) - 1))], 1),
            "max_ms": round(1000 * times[-1], 1),
            "attempts": dict(sorted(collections.Counter(r.attempts for r in self.rows).items())),
            **more,
        }


@dataclass
class AsyncLoad(Load):
    """Calls from the tasks of one event loop; `client` only provides the settings."""

    asynchronous: AsyncClient | None = None

    def __enter__(self) -> AsyncLoad:
        self.started = time.monotonic()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=lambda: asyncio.run(self._run_all()))]
        self._threads[0].start()
        return self

    async def _run_all(self) -> None:
        assert self.asynchronous is not None
        async with self.asynchronous as client:
            await asyncio.gather(*(self._run_one(client) for _ in range(self.concurrency)))

    async def _run_one(self, client: AsyncClient) -> None:
        while not self._stop.is_set():
            began, timeout = time.monotonic(), self.timeout()
            error, text = "", ""
            try:
                attempts = (await client.predict(self.model, self.body, timeout=timeout)).attempts
            except ClientError as raised:
                attempts, error, text = raised.attempts, type(raised).__name__, str(raised)
            took = time.monotonic() - began
            self.rows.append(Row(began - self.started, took, timeout, attempts, error, text))
