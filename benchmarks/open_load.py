"""Open-loop load: requests are sent at random times, whether or not earlier ones are answered.

Latencies are counted from the scheduled time, so a server that stalls cannot slow down the load
and hide its stall ("coordinated omission").
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import random
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from vestal.project import Project, ReadyFile

CONNECTIONS = 32
"""Connections that keep a server with 2 workers busy."""
SATURATION_SECONDS = 10.0
HUNG_SECONDS = 30.0
"""A request without a response after this time counts as hung."""


@dataclass(frozen=True)
class Row:
    """One request. `at`: scheduled time in seconds since the start; `phase`: what ran meanwhile."""

    at: float
    seconds: float
    status: int  # 0: no response
    version: str
    answer: str
    phase: str


class OpenLoad:
    """Sends one input at `rate` requests per second (Poisson) from a thread, until it is stopped.

    The requests are plain httpx, without retries. `phase` marks the rows; change it at any time.
    `base`: base address; None: the project's inference address.
    """

    def __init__(
        self,
        project: Project,
        model: str,
        body: bytes,
        rate: float,
        seed: int,
        base: str | None = None,
    ) -> None:
        self._project, self._model, self._body, self._rate = project, model, body, rate
        self._base = base
        self._random = random.Random(seed)
        self.phase = "baseline"
        self.rows: list[Row] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> OpenLoad:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        ready = ReadyFile.read(self._project.ready_file)
        keys = json.loads(self._project.key_file.read_text())
        url = f"{self._base or ready.inference}/predictions/{self._model}"
        headers = {
            "Authorization": f"Bearer {keys['inference']['key']}",
            "Content-Type": "application/octet-stream",
        }
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        began, scheduled = time.monotonic(), 0.0
        async with (
            httpx.AsyncClient(
                headers=headers, limits=limits, timeout=HUNG_SECONDS, trust_env=False
            ) as client,
            asyncio.TaskGroup() as tasks,
        ):
            while not self._stop.is_set():
                scheduled += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, began + scheduled - time.monotonic()))
                tasks.create_task(self._send(client, url, began, scheduled))

    async def _send(
        self, client: httpx.AsyncClient, url: str, began: float, scheduled: float
    ) -> None:
        phase = self.phase
        try:
            response = await client.post(url, content=self._body)
            status, answer = response.status_code, response.text
            version = response.headers.get("x-model-version", "")
        except httpx.HTTPError as error:
            status, answer, version = 0, type(error).__name__, ""
        took = time.monotonic() - began - scheduled
        self.rows.append(Row(scheduled, took, status, version, answer, phase))


def quantile(rows: Iterable[Row], q: float) -> float:
    """Return a quantile of the latencies of successful requests, in seconds."""
    times = sorted(row.seconds for row in rows if row.status == 200)
    return times[min(len(times) - 1, int(q * len(times)))] if times else float("nan")


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write the rows as CSV, gzip'ed."""
    with gzip.open(file, "wt", newline="") as out:
        writer = csv.DictWriter(out, list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in sorted(rows, key=lambda each: each.at):
            shown = {"at": f"{row.at:.4f}", "seconds": f"{row.seconds:.4f}"}
            writer.writerow(asdict(row) | shown | {"answer": row.answer[:200]})


async def saturate(url: str, body: bytes, headers: Mapping[str, str]) -> float:
    """Return the responses per second to as many connections as keep the server busy."""
    done = 0
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as client:
        end = time.monotonic() + SATURATION_SECONDS

        async def call() -> None:
            nonlocal done
            while time.monotonic() < end:
                (await client.post(url, content=body)).raise_for_status()
                done += 1

        await asyncio.gather(*(call() for _ in range(CONNECTIONS)))
    return done / SATURATION_SECONDS
