"""Count the requests lost when workers are removed; rows in benchmarks/results/scale_down-*.

    python -m benchmarks.scale_down --times 300

Batches of 64 with a delay of 400 ms. Lone callers send requests at random times, without retries.
Three ways to remove a worker, in turn:

- `at_once`: only TorchServe's own call;
- `quiet`: the call, when the queue is empty, no request arrived for the delay and 0.2 s more, and
  the handler has described itself;
- `fence`: vestal.fleet.fence.

A stub replaces torch in the workers, so that they start in less than a second; what happens to
requests happens in TorchServe's Java process.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import json
import random
import re
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests

from benchmarks.client_server import NO_OP, Torchserve, torchserve
from vestal import Client, ServerFailed
from vestal.client.tokens import KeyFile
from vestal.fleet.fence import Management, NotIdle, remove_workers

RESULTS = Path(__file__).with_name("results")
WORKERS = 5
DELAY = 0.4
LOST_SECONDS = 8.0
"""A request without a response for this long is lost."""
_ARRIVALS = re.compile(r"^ts_inference_requests_total\{.*\} ([\d.eE+]+)$", re.MULTILINE)


@dataclass
class Row:
    """One request, or one removal of a worker (`outcome` is its mode).

    `at`: seconds since the start. `seconds`: until the response, or for the removal.
    """

    kind: str
    at: float
    seconds: float
    outcome: str


class Callers:
    """Threads that each send a request, wait for the response, and pause for a random time."""

    def __init__(self, server: Torchserve, count: int, pause: float) -> None:
        self.rows: list[Row] = []
        self.started = time.monotonic()
        self._url, self._pause = f"{server.addresses()['url']}/predictions/lone", pause
        self._stop = threading.Event()
        self._keys = KeyFile(server.project.key_file)
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, seed: int) -> None:
        rng = random.Random(seed)
        while not self._stop.wait(rng.expovariate(1 / self._pause)):
            headers = {"Authorization": f"Bearer {self._keys.get('inference')}"}
            start = time.monotonic()
            try:
                response = requests.post(self._url, b"1", headers=headers, timeout=LOST_SECONDS)
                outcome = str(response.status_code)
            except requests.Timeout:
                outcome = "no response"
            except requests.RequestException as error:
                outcome = type(error).__name__
            now = time.monotonic()
            self.rows.append(Row("request", start - self.started, now - start, outcome))


def _arrivals(client: Client) -> float:
    return sum(map(float, _ARRIVALS.findall(client.metrics_text())))


def scale(client: Client, workers: int) -> None:
    with contextlib.suppress(ServerFailed):  # ConcurrentModificationException: it is removed
        client.scale("lone", workers, wait=False, timeout=30)


def at_once(client: Client, server: Torchserve, workers: int) -> None:
    scale(client, workers)


def quiet(client: Client, server: Torchserve, workers: int) -> None:
    since, arrived = time.monotonic(), _arrivals(client)
    while True:
        if _arrivals(client) != arrived or client.describe("lone").queue_pending:
            since, arrived = time.monotonic(), _arrivals(client)
        elif time.monotonic() - since > DELAY + 0.2:
            client.describe("lone", customized=True)
            if _arrivals(client) == arrived:
                break
            since, arrived = time.monotonic(), _arrivals(client)
        time.sleep(0.02)
    scale(client, workers)


def fenced(client: Client, server: Torchserve, workers: int) -> None:
    keys = KeyFile(server.project.key_file)
    management = Management(server.addresses()["management"], lambda: keys.get("management"))
    while True:
        try:
            remove_workers(client, management, "lone", "1.0", workers)
            return
        except NotIdle:
            time.sleep(0.1)


MODES: dict[str, Callable[[Client, Torchserve, int], None]] = {
    "at_once": at_once,
    "quiet": quiet,
    "fence": fenced,
}


def pack_lone(server: Torchserve) -> str:
    return server.pack("lone", workers=WORKERS, batch=64, delay=int(DELAY * 1000), code=NO_OP)


def measure(
    server: Torchserve, modes: list[str], times: int, callers: int, rows: list[Row]
) -> None:
    """Remove `times` workers in each mode, and append a row for each removal and request."""
    rng = random.Random(0)
    for _ in range(-(-times // (WORKERS - 1))):
        for mode in modes:
            with server.client() as client:
                client.scale("lone", WORKERS, timeout=120)
                with Callers(server, callers, pause=1.0) as traffic:
                    for workers in range(WORKERS - 1, 0, -1):
                        time.sleep(rng.uniform(0.05, 0.5))
                        start = time.monotonic()
                        MODES[mode](client, server, workers)
                        now = time.monotonic()
                        rows.append(Row("removal", start - traffic.started, now - start, mode))
                    time.sleep(DELAY)
                rows += [Row(mode, row.at, row.seconds, row.outcome) for row in traffic.rows]


def lost(rows: list[Row], mode: str) -> int:
    """Count the requests that got no prediction."""
    return sum(row.kind == mode and row.outcome != "200" for row in rows)


def summary(rows: list[Row]) -> dict[str, object]:
    """Count removals and the outcomes of requests, by mode."""
    result: dict[str, object] = {}
    for mode in MODES:
        removals = [row.seconds for row in rows if (row.kind, row.outcome) == ("removal", mode)]
        requests_ = [row for row in rows if row.kind == mode]
        if removals:
            result[mode] = {
                "removals": len(removals),
                "median_seconds": round(sorted(removals)[len(removals) // 2], 3),
                "lost": lost(rows, mode),
                "requests": dict(Counter(row.outcome for row in requests_)),
                "slowest_answer": round(
                    max((r.seconds for r in requests_ if r.outcome == "200"), default=0), 3
                ),
            }
    return result


def python_with_stub(folder: Path) -> str:
    """Write a `python` for workers that imports a stub instead of torch; return its path."""
    stub, python = folder / "stub", folder / "bin" / "python"
    stub.mkdir()
    python.parent.mkdir()
    (stub / "torch.py").write_text("class Tensor: ...\n")
    site = Path(requests.__file__).parents[1]
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{stub}:$PYTHONPATH:{site}" exec {sys.executable} -S "$@"\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return str(python)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modes", nargs="*", default=[], choices=[[], *MODES])
    parser.add_argument("--times", type=int, default=300, help="removals in each mode")
    parser.add_argument("--callers", type=int, default=2)
    arguments = parser.parse_args()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with torchserve(token_minutes=600) as server:
        sys.executable = python_with_stub(server.folder)  # the server starts workers with it
        server.start([pack_lone(server)])
        modes = arguments.modes or list(MODES)
        rows: list[Row] = []
        try:
            measure(server, modes, arguments.times, arguments.callers, rows)
        except (Exception, KeyboardInterrupt) as error:  # the rows so far are written
            print(f"stopped by {error!r}", file=sys.stderr)
    result = {"batch": 64, "delay": DELAY, "callers": arguments.callers, **summary(rows)}
    print(json.dumps(result, indent=2))
    name = RESULTS / f"scale_down-{stamp}"
    name.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    with gzip.open(name.with_suffix(".csv.gz"), "wt", newline="") as out:
        writer = csv.DictWriter(out, list(Row.__dataclass_fields__))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                asdict(row) | {"at": round(row.at, 4), "seconds": round(row.seconds, 4)}
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
