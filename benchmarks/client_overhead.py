"""Cost of the client compared with the bare libraries, and of predict_many with wrk; raw rows kept.

    python -m benchmarks.client_overhead [--seconds 20] [--rounds 3] [--skip resnet18]

1. One caller, one kept connection, a no-op model, sides alternating in blocks: `Client.predict`
   with a bare `requests.Session.post`, `AsyncClient.predict` with a bare `httpx.AsyncClient`.
   The medians of the calls and the CPU time of the calling process are compared.
2. 32 connections: `predict_many(concurrency=32)` of both clients with wrk, on ResNet18 (weights
   random, 224 x 224 JPEG) and on the no-op model, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import requests

from benchmarks.client_server import NO_OP, Torchserve, torchserve
from vestal import AsyncClient

RESULTS = Path(__file__).with_name("results")
BLOCK = 200
"""Consecutive calls of one side."""
BODY = b"x" * 1000


def bare_headers(server: Torchserve) -> dict[str, str]:
    key = json.loads(server.project.key_file.read_text())["inference"]["key"]
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"}


def sync_sides(server: Torchserve, calls: int) -> dict[str, list[float]]:
    url = f"{server.addresses()['url']}/predictions/single"
    times: dict[str, list[float]] = {"requests": [], "Client": []}
    cpu = dict.fromkeys(times, 0.0)
    with requests.Session() as session, server.client() as client:
        session.headers.update(bare_headers(server))

        def bare() -> None:
            response = session.post(url, data=BODY, timeout=30)
            response.raise_for_status()
            response.json()

        sides: dict[str, Callable[[], object]] = {
            "requests": bare,
            "Client": lambda: client.predict("single", BODY),
        }
        for _ in range(300):
            for side in sides.values():
                side()
        while min(map(len, times.values())) < calls:
            for name, side in sides.items():
                began_cpu = time.process_time()
                for _ in range(BLOCK):
                    began = time.perf_counter()
                    side()
                    times[name].append(time.perf_counter() - began)
                cpu[name] += time.process_time() - began_cpu
    return {**times, **{f"{name} cpu": [cpu[name] / len(times[name])] for name in cpu}}


async def async_sides(server: Torchserve, calls: int) -> dict[str, list[float]]:
    url = f"{server.addresses()['url']}/predictions/single"
    times: dict[str, list[float]] = {"httpx": [], "AsyncClient": []}
    cpu = dict.fromkeys(times, 0.0)
    async with (
        httpx.AsyncClient(headers=bare_headers(server), timeout=30) as bare_client,
        AsyncClient(**server.addresses()) as client,
    ):

        async def bare() -> None:
            response = await bare_client.post(url, content=BODY)
            response.raise_for_status()
            response.json()

        sides: dict[str, Callable[[], Awaitable[object]]] = {
            "httpx": bare,
            "AsyncClient": lambda: client.predict("single", BODY),
        }
        for _ in range(300):
            for side in sides.values():
                await side()
        while min(map(len, times.values())) < calls:
            for name, side in sides.items():
                began_cpu = time.process_time()
                for _ in range(BLOCK):
                    began = time.perf_counter()
                    await side()
                    times[name].append(time.perf_counter() - began)
                cpu[name] += time.process_time() - began_cpu
    return {**times, **{f"{name} cpu": [cpu[name] / len(times[name])] for name in cpu}}


def overhead(server: Torchserve, calls: int) -> list[dict[str, Any]]:
    rows = []
    for ours, theirs, times in (
        ("Client", "requests", sync_sides(server, calls)),
        ("AsyncClient", "httpx", asyncio.run(async_sides(server, calls))),
    ):
        medians = {name: 1e6 * statistics.median(times[name]) for name in (ours, theirs)}
        cpus = {name: 1e6 * times[f"{name} cpu"][0] for name in (ours, theirs)}
        rows += [
            {
                "what": "overhead",
                "side": name,
                "calls": len(times[name]),
                "median_us": round(medians[name], 1),
                "cpu_us": round(cpus[name], 1),
                "ratio": round(medians[name] / medians[theirs], 3),
                "cpu_ratio": round(cpus[name] / cpus[theirs], 3),
            }
            for name in (theirs, ours)
        ]
    return rows


def wrk(server: Torchserve, model: str, body: bytes, seconds: float) -> float:
    """Return the responses per second that wrk gets over 32 connections."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "body").write_bytes(body)
        key = bare_headers(server)["Authorization"]
        script = Path(folder) / "post.lua"
        script.write_text(
            f'wrk.method = "POST"\nlocal f = io.open("{folder}/body", "rb")\n'
            f'wrk.body = f:read("*all")\nwrk.headers["Authorization"] = "{key}"\n'
            'wrk.headers["Content-Type"] = "application/octet-stream"\n'
        )
        url = f"{server.addresses()['url']}/predictions/{model}"
        done = subprocess.run(
            ["wrk", "-t1", "-c32", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(script), url],
            check=True,
            capture_output=True,
            text=True,
        )
    assert "Non-2xx" not in done.stdout, done.stdout
    return float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])  # type: ignore[index]


def until(seconds: float, body: bytes) -> Iterator[bytes]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield body


def many(server: Torchserve, model: str, body: bytes, seconds: float) -> tuple[float, float]:
    """Return the responses per second, and CPU seconds of this process per response.

    As in wrk, only responses that arrive within the time count.
    """
    ends: list[float] = []
    with server.client(timeout=60) as client:
        began, cpu = time.monotonic(), time.process_time()
        inputs = until(seconds, body)
        results = client.predict_many(
            model, inputs, concurrency=32, progress=lambda *_: ends.append(time.monotonic())
        )
        used = time.process_time() - cpu
    assert not [result for result in results if isinstance(result, Exception)]
    return sum(end <= began + seconds for end in ends) / seconds, used / len(results)


def many_async(server: Torchserve, model: str, body: bytes, seconds: float) -> tuple[float, float]:
    async def run() -> tuple[float, float]:
        ends: list[float] = []
        async with AsyncClient(**server.addresses(), timeout=60) as client:
            began, cpu = time.monotonic(), time.process_time()
            inputs = until(seconds, body)
            results = await client.predict_many(
                model, inputs, concurrency=32, progress=lambda *_: ends.append(time.monotonic())
            )
            used = time.process_time() - cpu
        assert not [result for result in results if isinstance(result, Exception)]
        return sum(end <= began + seconds for end in ends) / seconds, used / len(results)

    return asyncio.run(run())


def throughput(
    server: Torchserve, model: str, body: bytes, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    wrk(server, model, body, min(3, seconds))  # warms the server up
    rates: dict[str, list[float]] = {"wrk": [], "Client": [], "AsyncClient": []}
    cpus: dict[str, list[float]] = {"wrk": [0.0], "Client": [], "AsyncClient": []}
    for _ in range(rounds):
        rates["wrk"].append(wrk(server, model, body, seconds))
        for name, run in (("Client", many), ("AsyncClient", many_async)):
            rate, used = run(server, model, body, seconds)
            rates[name].append(rate)
            cpus[name].append(used)
    base = statistics.median(rates["wrk"])
    return [
        {
            "what": f"{model}, 32 connections",
            "side": name,
            "rates": " ".join(f"{rate:.1f}" for rate in found),
            "per_second": round(statistics.median(found), 1),
            "cpu_us": round(1e6 * statistics.median(cpus[name]), 1),
            "ratio": round(statistics.median(found) / base, 3),
        }
        for name, found in rates.items()
    ]


def pack_resnet18(server: Torchserve) -> tuple[str, bytes]:
    """ResNet18 with random weights: 2 workers of one thread, batch 8; and a 224 x 224 JPEG."""
    import numpy as np
    from PIL import Image

    from benchmarks.resnet18 import ours, sources

    config = {"minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "maxBatchDelay": 5}
    with tempfile.TemporaryDirectory() as folder:
        sources(Path(folder), seed=0)
        archive = ours(Path(folder), config)
        server.project.model_store.mkdir(exist_ok=True)
        shutil.move(archive, server.project.model_store / "resnet18-1.0.mar")
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((224, 224)).save(buffer, "JPEG", quality=90)
    return "resnet18=resnet18-1.0.mar", buffer.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="of one run at 32 connections")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=4000, help="of each side alone")
    parser.add_argument("--skip", choices=["resnet18", "overhead"], action="append", default=[])
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed (Debian: apt-get install wrk)")
    rows: list[dict[str, Any]] = []
    with torchserve() as server:
        models = [server.pack("noop", workers=1, batch=64, code=NO_OP)]
        single = server.pack("single", workers=1, batch=1, code=NO_OP)
        photo = b""
        if "resnet18" not in arguments.skip:
            file, photo = pack_resnet18(server)
            models.append(file)
        server.start([*models, single])
        if "overhead" not in arguments.skip:
            rows += overhead(server, arguments.calls)
        if photo:
            rows += throughput(server, "resnet18", photo, arguments.seconds, arguments.rounds)
        rows += throughput(server, "noop", BODY, arguments.seconds, arguments.rounds)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    machine = (
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
    )
    names = ["what", "side", "calls", "median_us", "rates", "per_second", "cpu_us", "ratio"]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"client_overhead-{stamp}.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, [*names, "cpu_ratio", "machine"], restval="")
        writer.writeheader()
        writer.writerows({**row, "machine": machine} for row in rows)
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
