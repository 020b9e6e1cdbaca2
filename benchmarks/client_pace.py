"""Bursts past a full queue, and outages; rows in benchmarks/results/client_pace-*.

    python -m benchmarks.client_pace                     # everything, about 8 minutes
    python -m benchmarks.client_pace burst --before REV  # and the client of that commit

`burst` sends 500 calls at once to a model whose queue holds 10 requests. The same burst to a model
whose queue holds all 500 gives the server's own time. `refused` and `no-worker` run four processes
of 25 callers each while the server is down, or the model has no worker, for 30 s, and count every
attempt.
"""

from __future__ import annotations

import argparse
import collections
import csv
import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.client_server import Torchserve, torchserve

RESULTS = Path(__file__).with_name("results")
CALLER = Path(__file__).with_name("client_pace_caller.py")
CALLS = 500
QUEUE = 10
PROCESSES, CALLERS = 4, 25


def start_caller(tree: Path, *what: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, CALLER, json.dumps(what)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def start_together(callers: list[subprocess.Popen[str]]) -> None:
    """Start all processes at once, when all of them are ready."""
    for each in callers:
        assert each.stdout is not None
        each.stdout.readline()
    for each in callers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()


def finish(callers: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    outputs: list[str] = []
    threads = [
        threading.Thread(target=lambda each=each: outputs.append(each.communicate("")[0]))
        for each in callers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [row for output in outputs for row in json.loads(output)]


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[round(share * (len(values) - 1))]


def measure_bursts(
    server: Torchserve, trees: dict[str, Path], repeats: int, processes: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows = []
    for repeat in range(repeats):
        for kind in ("Client", "AsyncClient"):
            for clients in processes:
                for name, tree in trees.items():
                    for model in ("roomy", "small"):
                        started = [
                            start_caller(
                                tree, "burst", server.addresses(), model, CALLS // clients, kind
                            )
                            for _ in range(clients)
                        ]
                        start_together(started)
                        about = {
                            "repeat": repeat,
                            "kind": kind,
                            "clients": clients,
                            "client": name,
                            "model": model,
                        }
                        rows += [about | row for row in finish(started)]
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        runs[row["kind"], row["clients"], row["client"], row["model"]].append(row)
    found = []
    for (kind, clients, name, model), mine in sorted(runs.items()):
        times = [row["seconds"] for row in mine]
        own = [row["seconds"] for row in runs[kind, clients, name, "roomy"]]
        found.append(
            {
                "kind": kind,
                "clients": clients,
                "client": name,
                "model": model,
                "p50_s": round(percentile(times, 0.5), 2),
                "p99_s": round(percentile(times, 0.99), 2),
                "p99_to_own": round(percentile(times, 0.99) / percentile(own, 0.99), 2),
                "attempts_a_call": round(sum(row["attempts"] for row in mine) / len(mine), 2),
                "errors": sum(bool(row["error"]) for row in mine),
            }
        )
    return found, rows


def measure_outage(
    server: Torchserve, name: str, tree: Path, how: str, length: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    callers = [
        start_caller(tree, "steady", server.addresses(), "echo", CALLERS) for _ in range(PROCESSES)
    ]
    time.sleep(6)
    with server.client(timeout=120) as client:
        down = time.time()
        if how == "refused":
            server.kill()
            time.sleep(length)
            server.start(["echo-1.0.mar"])
        else:
            client.scale("echo", 0)
            time.sleep(length)
            client.scale("echo", 1)
        up = time.time()
    time.sleep(6)
    rows = finish(callers)
    for row in rows:
        row["at"] -= down
    up -= down
    seconds: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for row in rows:
        seconds[row["what"]][int(row["at"] // 1)] += 1
    outage = [seconds["attempt"][second] for second in range(3, int(length))]
    after = range(int(up), int(up) + 5)
    return {
        "outage": how,
        "client": name,
        "attempts_a_second_mean": round(sum(outage) / len(outage), 1),
        "attempts_a_second_max": max(outage),
        "first_5_s_after": {
            "attempts": [seconds["attempt"][second] for second in after],
            "answers": [seconds["answer"][second] for second in after],
        },
        "errors": sum(count for what in seconds for count in seconds[what].values())
        - seconds["attempt"].total()
        - seconds["answer"].total(),
        "up_after_s": round(up, 1),
    }, rows


def write(stamp: str, name: str, found: Any, rows: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"client_pace-{name}-{stamp}"
    file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    with gzip.open(file.with_suffix(".csv.gz"), "wt", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["burst", "refused", "no-worker"])
    parser.add_argument("--before", metavar="REV", help="Measure the client of this commit, too.")
    parser.add_argument("--repeats", type=int, default=3, help="Bursts of each kind.")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 5], help="Clients that share a burst."
    )
    parser.add_argument("--outage", type=float, default=30.0, help="Length of an outage, seconds.")
    arguments = parser.parse_args()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="vc-") as folder, torchserve() as server:
        trees = {"now": here}
        if arguments.before:
            archived = subprocess.run(
                ["git", "archive", arguments.before, "vestal"],
                check=True,
                cwd=here,
                stdout=subprocess.PIPE,
            ).stdout
            subprocess.run(["tar", "-x", "-C", folder], check=True, input=archived)
            trees = {"before": Path(folder), **trees}
        if "burst" in arguments.what:
            server.start([server.pack("roomy"), server.pack("small", queue=QUEUE)])
            found, rows = measure_bursts(server, trees, arguments.repeats, arguments.processes)
            for each in found:
                print(json.dumps(each), flush=True)
            write(stamp, "burst", found, rows)
            server.stop()
        server.pack("echo", queue=QUEUE)
        for how in ("refused", "no-worker"):
            if how not in arguments.what:
                continue
            results, kept = [], []
            for name, tree in trees.items():
                server.start(["echo-1.0.mar"])
                result, rows = measure_outage(server, name, tree, how, arguments.outage)
                server.stop()
                print(json.dumps(result), flush=True)
                results.append(result)
                kept += [{"client": name, **row} for row in rows]
            write(stamp, how, results, kept)


if __name__ == "__main__":
    main()
