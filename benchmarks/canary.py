"""Automatic canaries of good and bad versions under load: how each ends, after how long, and why.

    python -m benchmarks.canary               # 3 rounds of every kind: 10 minutes
    python -m benchmarks.canary slow --rounds 1

32 callers send one request after the other to the gateway. The default version takes 50 ms for a
batch of at most 32. Rows in benchmarks/results/canary-*.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests

from benchmarks.swaps import RESULTS
from vestal.fleet.canary.judging import Rules
from vestal.fleet.canary.requests import CanaryRequest, CanaryStatus
from vestal.fleet.server import Server
from vestal.mar.index import sha256_of
from vestal.project import Project

CALLERS = 32
RULES = Rules(steps=(25, 50, 100), every=10)
END_SECONDS = 900.0
HANDLER = """
import os, random, time

def handle(data, context):
    if data is None:
        return None
    if data[0].get("body") and random.random() < {crashing}:
        os._exit(1)
    time.sleep({seconds})
    for index in range(len(data)):
        if random.random() < {failing}:
            context.set_response_status(code=500, phrase="Failed", idx=index)
    return [b"{{}}"] * len(data)
"""
GOOD = {"seconds": 0.05, "failing": 0, "crashing": 0}
KINDS = {
    "good": GOOD,
    "fails in 2 %": {**GOOD, "failing": 0.02},
    "twice as slow": {**GOOD, "seconds": 0.1},
    "crashes": {**GOOD, "crashing": 0.05},
}
SERVING = 'models:\n  echo: {version: "0", settle_time: 2s}\ngateway: {port: 0}\n'


@dataclass(frozen=True)
class Row:
    """One canary. `seconds`: from its first request to its end; `rate`: requests per second."""

    kind: str
    round: int
    state: str
    weight: float
    seconds: float
    intervals: float
    rate: float
    reason: str | None


def pack(project: Project, version: str, behavior: dict[str, float]) -> Path:
    """Make the archive of a version."""
    with tempfile.TemporaryDirectory() as folder:
        handler = Path(folder) / "echo_handler.py"
        handler.write_text(HANDLER.format(**behavior))
        config = Path(folder) / "model-config.yaml"
        config.write_text("batchSize: 32\nmaxBatchDelay: 5\n")
        program = str(Path(sys.executable).with_name("torch-model-archiver"))
        options = ["--model-name", "echo", "--version", version, "--handler", str(handler)]
        files = ["--config-file", str(config), "--export-path", folder]
        environment = {**os.environ, "TMPDIR": folder}
        subprocess.run([program, *options, *files], check=True, env=environment)
        archive = project.model_store / f"echo-{version}.mar"
        archive.write_bytes((Path(folder) / "echo.mar").read_bytes())
    return archive


@contextmanager
def calling(url: str) -> Iterator[list[int]]:
    """Send requests; yields a list whose only element is their number."""
    ended, count = threading.Event(), [0]

    def call() -> None:
        with requests.Session() as session:
            while not ended.is_set():
                session.post(url, data=b"x", timeout=120)
                count[0] += 1

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield count
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def play(server: Server, archive: Path, version: str) -> CanaryStatus:
    """Run a canary to its end."""
    server.keeper.start_canary(
        CanaryRequest(
            model="echo",
            version=version,
            archive=archive.name,
            sha256=sha256_of(archive),
            rules=RULES,
        )
    )
    deadline = time.monotonic() + END_SECONDS
    while True:
        (status,) = server.keeper.canaries()
        if status.ended and server.keeper.status().converged:
            return status
        if time.monotonic() > deadline:
            raise TimeoutError(f"{status.state} at {status.weight:g} %: {status.waiting}")
        time.sleep(0.5)


def run(kinds: list[str], rounds: int) -> Iterator[Row]:
    """Play all canaries on one server each."""
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="vc-") as folder:
            project = Project(Path(folder) / "project")
            project.model_store.mkdir(parents=True)
            pack(project, "0", GOOD)
            (project.root / "serving.yaml").write_text(SERVING)
            with Server(project, port=0) as server:
                url = f"{server.ready.gateway}/predictions/echo"
                for number in range(1, rounds + 1):
                    archive = pack(project, str(number), KINDS[kind])
                    with calling(url) as count:
                        begin = time.monotonic()
                        status = play(server, archive, str(number))
                        rate = count[0] / (time.monotonic() - begin)
                    first = next(e for e in status.log if " gets " in e.text)
                    last = status.log[-1]
                    seconds = last.time - first.time
                    yield Row(
                        kind=kind,
                        round=number,
                        state=status.state,
                        weight=status.weight,
                        seconds=round(seconds, 1),
                        intervals=round(seconds / RULES.every, 2),
                        rate=round(rate),
                        reason=status.reason,
                    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    load = os.getloadavg()[1]
    rows: list[Row] = []
    for row in run(arguments.kinds, arguments.rounds):
        rows.append(row)
        print(row, flush=True)
    print(f"{os.cpu_count()} cores, load before {load:.1f}")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with (RESULTS / f"canary-{stamp}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(asdict(rows[0])))
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    expected = {kind: "promoted" if kind == "good" else "reverted" for kind in KINDS}
    return 1 if any(row.state != expected[row.kind] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
