"""Chaos for the client against a live TorchServe; rows in benchmarks/results/client_chaos-*.

    python -m benchmarks.client_chaos            # all, in full: about 35 minutes
    python -m benchmarks.client_chaos batches    # one: kills, batches, killer, restart, ...
    python -m benchmarks.client_chaos --short

The tests in tests/chaos/test_client_chaos.py run the short forms.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.client_batches import MODELS, SETTINGS, SHORT_SETTINGS, batches, healthy
from benchmarks.client_load import Load, Row
from benchmarks.client_server import Torchserve, kill_a_worker, torchserve
from benchmarks.client_token_load import TokenLoad
from vestal import DeadlineExceeded, WorkerDied

RESULTS = Path(__file__).with_name("results")
LATE = 0.2
"""Seconds that a call may end after its deadline."""


def kills(server: Torchserve, seconds: float, every: float) -> tuple[dict[str, Any], list[Row]]:
    """Kill READY workers at intervals: 2 workers, concurrency 16, deadline 60 s."""
    killed = []
    with server.client() as client, Load(client, "echo") as load:
        end = time.monotonic() + seconds
        while time.monotonic() + every / 2 < end:
            time.sleep(every / 2)
            killed.append(kill_a_worker(client, "echo"))
            time.sleep(every / 2)
        client.wait_ready("echo", timeout=60)
    assert all(killed), killed
    return load.summary(killed=len(killed)), load.rows


def killer(server: Torchserve, times: int) -> tuple[dict[str, Any], list[Row]]:
    """Send an input that makes the worker exit while 15 other callers send harmless ones."""
    lost = []
    with server.client(timeout=60) as client, Load(client, "echo", 15) as load:
        for _ in range(times):
            time.sleep(1)
            before = {worker.pid for worker in client.describe("echo").workers}
            load.rows.append(load.call(b"die", 60, marked=True))
            time.sleep(1)
            ready = client.wait_ready("echo", timeout=60)
            lost.append(len(before - {worker.pid for worker in ready.workers}))
    died = [row for row in load.rows if row.error == WorkerDied.__name__]
    return load.summary(
        lost_workers=lost,
        blamed_rightly=sum(row.marked for row in died),
        blamed_wrongly=sum(not row.marked for row in died),
    ), load.rows


def restart(server: Torchserve, times: int) -> tuple[dict[str, Any], list[Row]]:
    """Kill and restart TorchServe; calls have deadlines of 1 to 45 s."""
    draw = random.Random(0)
    outages: list[tuple[float, float]] = []
    with (
        server.client() as client,
        Load(client, "echo", timeout=lambda: draw.uniform(1, 45)) as load,
    ):
        for _ in range(times):
            time.sleep(3)
            down = time.monotonic() - load.started
            server.kill()
            time.sleep(2)
            server.start(["echo-1.0.mar"])
            outages.append((down, time.monotonic() - load.started))
        time.sleep(7)
    return load.summary(outages=outages, **judged(load.rows, outages)), load.rows


def judged(rows: Iterable[Row], outages: list[tuple[float, float]]) -> dict[str, Any]:
    """Return the calls that failed although they had 5 s after READY, or met no outage."""
    wrong, worst = [], 0.0
    for row in rows:
        end = row.at + row.timeout
        met = [(down, up) for down, up in outages if row.at <= up and down - 0.5 <= end]
        due = not any(down - 0.5 <= end < up + 5 for down, up in met)
        if row.error == DeadlineExceeded.__name__:
            worst = max(worst, row.seconds - row.timeout)
        if row.error and (due or row.error != DeadlineExceeded.__name__):
            wrong.append(asdict(row))
    return {"wrong": wrong, "latest_after_deadline_ms": round(1000 * worst, 1)}


def tokens(server: Torchserve, processes: int, seconds: float) -> tuple[dict[str, Any], list[Row]]:
    """Call from processes whose keys are valid for a minute."""
    with TokenLoad(server, "steady", processes) as load:
        time.sleep(seconds)
    return load.result, []


def drains(server: Torchserve, times: int) -> tuple[dict[str, Any], list[Row]]:
    """Replace a version under load repeatedly."""
    with server.client() as client, Load(client, "drained") as load:
        versions = ["1.0", "2.0"]
        for _ in range(times):
            old, new = versions
            client.register(f"drained-{new}.mar", workers=1, timeout=60)
            client.set_default("drained", new)
            client.unregister("drained", old, timeout=60)
            versions.reverse()
    return load.summary(unregistered=times, slow=sum(r.seconds > 10 for r in load.rows)), load.rows


Scenario = Callable[[Torchserve], tuple[dict[str, Any], list[Row]]]
FULL: dict[str, Scenario] = {
    "kills": lambda server: kills(server, 120, 20),
    "batches": lambda server: batches(server, SETTINGS, 35, every=5),
    "healthy": lambda server: healthy(server, 15),
    "killer": lambda server: killer(server, 5),
    "restart": lambda server: restart(server, 3),
    "drains": lambda server: drains(server, 20),
    "tokens": lambda server: tokens(server, 8, 300),
}
SHORT: dict[str, Scenario] = {
    "kills": lambda server: kills(server, 24, 12),
    "batches": lambda server: batches(server, SHORT_SETTINGS, 10, every=5),
    "healthy": lambda server: healthy(server, 5),
    "killer": lambda server: killer(server, 1),
    "restart": lambda server: restart(server, 1),
    "drains": lambda server: drains(server, 2),
    "tokens": lambda server: tokens(server, 3, 62),
}


def prepare(server: Torchserve) -> list[str]:
    """Packs the models: echo, drained, steady, and those of `batches`."""
    server.pack("drained", "2.0", batch=8)
    return [
        server.pack("echo", workers=2, batch=8),
        server.pack("drained", "1.0", batch=8),
        server.pack("steady"),
        *(server.pack(name, **options) for name, options in MODELS.items()),
    ]


def failures(name: str, result: dict[str, Any]) -> list[str]:
    """Return the expectations that a run did not meet."""
    expected: dict[str, Callable[[], dict[str, object]]] = {
        "kills": lambda: {"errors": {}},
        "batches": lambda: {"failed": 0},
        "healthy": lambda: {"copies": min(result["copies"], 0.01 * calls_of(result))},
        "killer": lambda: {"blamed_wrongly": 0, "errors": {"WorkerDied": result["blamed_rightly"]}},
        "restart": lambda: {"wrong": []},
        "drains": lambda: {"errors": {}, "slow": 0},
        "tokens": lambda: {"failed": 0},
    }
    found = [f"{k} is {result[k]}, not {v}" for k, v in expected[name]().items() if result[k] != v]
    if name == "killer" and (max(result["lost_workers"]) > 2 or not result["blamed_rightly"]):
        found.append(f"lost workers: {result['lost_workers']}")
    if name == "restart" and result["latest_after_deadline_ms"] > 1000 * LATE:
        found.append(f"{result['latest_after_deadline_ms']} ms after a deadline")
    return found


def calls_of(result: dict[str, Any]) -> int:
    return sum(setting["calls"] for setting in result["settings"])


def write(file: Path, rows: list[Row]) -> None:
    with gzip.open(file, "wt", newline="") as out:
        writer = csv.DictWriter(out, list(asdict(rows[0])))
        writer.writeheader()
        for row in sorted(rows, key=lambda row: row.at):
            times = {name: round(getattr(row, name), 4) for name in ("at", "seconds", "timeout")}
            writer.writerow(asdict(row) | times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", choices=[[], *FULL], default=[])
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    scenarios = SHORT if arguments.short else FULL
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    bad = 0
    for name in arguments.scenarios or scenarios:
        with torchserve(token_minutes=1 if name == "tokens" else 60) as server:
            models = prepare(server)
            three = models[:3]
            chosen = {"batches": models[3:], "healthy": three, "drains": three, "tokens": three}
            server.start(chosen.get(name, models[:1]))
            result, rows = scenarios[name](server)
        found = failures(name, result)
        bad += bool(found)
        print(json.dumps({"scenario": name, **result, "failures": found}), flush=True)
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"client_chaos-{name}-{stamp}"
        file.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        if rows:
            write(file.with_suffix(".csv.gz"), rows)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
