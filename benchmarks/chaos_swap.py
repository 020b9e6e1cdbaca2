"""Swaps under open-loop load while something is killed; rows in benchmarks/results/chaos_swap-*.

    python -m benchmarks.chaos_swap               # 10 minutes
    python -m benchmarks.chaos_swap --rounds 4    # a short form

In each round, mnist is swapped to its next version, and at a random time of the swap a worker,
TorchServe or `vestal serve` is killed with SIGKILL, or nothing; a supervisor starts `vestal serve`
again. The time to converge is from the kill until the next version runs alone, READY and verified.

Two callers send requests at random times (Poisson, 10 per second each): plain httpx without
retries, and Vestal's client with a deadline of 30 s, whose calls must not fail.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.client_open_load import ClientLoad, PlainLoad
from benchmarks.open_load import HUNG_SECONDS, OpenLoad, Row, quantile, write
from benchmarks.supervised import Supervised
from benchmarks.swaps import VERSIONS, answer_of, begin_swap, is_right, prepare
from vestal import Client
from vestal.errors import VestalError
from vestal.fleet.keeper_client import KeeperClient
from vestal.project import Project

RESULTS = Path(__file__).with_name("results")
MODEL = "mnist"
VICTIMS = ("worker", "TorchServe", "vestal serve", "nothing")
RATE = 10.0
SWAP_SECONDS = 12.0
"""Latest time of a kill in seconds after the change of the desired state; the time is random."""
CONVERGE_SECONDS = 180.0
ROUNDS = 24
MOST_SECONDS = 600.0
"""No round begins after this time: on a busy machine, there are fewer rounds."""
BASELINE_SECONDS = 20.0
SEED = 0


@dataclass(frozen=True)
class Round:
    """One swap. `after`: seconds from the change to the kill; `doing`: the keeper's step then."""

    number: int
    victim: str
    version: str
    after: float
    doing: str
    seconds: float
    outcome: str


class Chaos:
    """Runs the rounds against one server. `answers`: the right answer of each version."""

    def __init__(
        self, server: Supervised, body: bytes, loads: Iterable[OpenLoad], seed: int
    ) -> None:
        self._server, self._body, self._loads = server, body, list(loads)
        self._random = random.Random(seed)
        self.answers: dict[str, Any] = {}
        self._learn(VERSIONS[0])

    def _learn(self, version: str) -> None:
        if version not in self.answers:
            right = answer_of(self._server.project, MODEL, version, self._body)
            self.answers[version] = right

    def run(self, number: int, victim: str, version: str) -> Round:
        """Swap to a version, kill the victim meanwhile, and wait until the version runs alone."""
        for load in self._loads:
            load.phase = f"round {number} {victim}"
        after = self._random.uniform(0.0, SWAP_SECONDS)
        revision = begin_swap(self._server.project, MODEL, version)
        time.sleep(after)
        doing = self._doing()
        self._kill(victim)
        began = time.monotonic()
        outcome = self._wait(revision, version)
        took = time.monotonic() - began
        if outcome == "done":
            self._learn(version)
        return Round(number, victim, version, after, doing, took, outcome)

    def _kill(self, victim: str) -> None:
        if victim == "vestal serve":
            self._server.kill()
        elif victim != "nothing":
            name = "model_service_worker" if victim == "worker" else "ModelServer"
            found = self._server.processes(name)
            self._random.choice(found).kill()

    def _doing(self) -> str:
        with contextlib.suppress(VestalError):
            for model in KeeperClient(self._server.project).status().models:
                return model.doing or "nothing"
        return "unknown"

    def _wait(self, revision: int, version: str) -> str:
        """Wait until a revision is done and its version runs alone; return the outcome."""
        deadline = time.monotonic() + CONVERGE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(VestalError):
                keeper = KeeperClient(self._server.project)
                (outcome,) = [e.outcome for e in keeper.revisions() if e.number == revision]
                if outcome not in (None, "done"):
                    return outcome
                if outcome == "done" and keeper.status().ready and self._runs_alone(version):
                    return outcome
            time.sleep(0.2)
        return "not converged"

    def _runs_alone(self, version: str) -> bool:
        """Whether only this version is registered, and its workers are READY and alive."""
        key_file = self._server.project.key_file
        with Client(
            self._server.inference, management=self._server.management, key_file=key_file
        ) as client:
            found = client.versions(MODEL)
        pids = [worker.pid or 0 for each in found for worker in each.workers]
        is_alone = [each.version for each in found] == [version] and found[0].ready
        return is_alone and all(map(psutil.pid_exists, pids))


def rounds_of(count: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """Yield number, victim and version of each round; each victim has its turn."""
    chosen = random.Random(seed)
    order = [v for _ in range(-(-count // len(VICTIMS))) for v in chosen.sample(VICTIMS, 4)]
    yield from zip(range(count), order, itertools.cycle(reversed(VERSIONS)), strict=False)


def summary(load: OpenLoad, answers: dict[str, Any]) -> dict[str, Any]:
    """Count what became of the requests of one caller."""
    rows = load.rows
    bad = [row for row in rows if row.status != 200]
    hung = [row for row in bad if row.status == 0 and row.seconds >= HUNG_SECONDS]
    return {
        "requests": len(rows),
        "failed": len(bad) - len(hung),
        "hung": len(hung),
        "wrong": sum(row.status == 200 and not is_right(row, answers) for row in rows),
        "failures": dict(Counter(f"{r.status} {r.answer[:60]}" for r in bad if r not in hung)),
        "failed_by_victim": dict(Counter(row.phase.split(" ", 2)[-1] for row in bad)),
        "versions": dict(Counter(row.version for row in rows if row.status == 200)),
        "p50_ms": round(1000 * quantile(rows, 0.5), 1),
        "p99_ms": round(1000 * quantile(rows, 0.99), 1),
        "max_s": round(max(row.seconds for row in rows if row.status == 200), 1),
    }


def measure(count: int, seed: int) -> tuple[dict[str, Any], dict[str, list[Row]], list[Round]]:
    """Run the rounds; return the summary, the rows of both callers, and the rounds."""
    with tempfile.TemporaryDirectory(prefix="vc-") as folder:
        project = Project(Path(folder) / "project")
        project.root.mkdir()
        body = prepare(project, MODEL, workers=1)
        with Supervised(project) as server:
            began = time.monotonic()
            with (
                PlainLoad(project, MODEL, body, RATE, seed) as plain,
                ClientLoad(project, MODEL, body, RATE, seed + 1) as client,
            ):
                time.sleep(BASELINE_SECONDS)
                chaos = Chaos(server, body, [plain, client], seed)
                rounds = []
                for each in rounds_of(count, seed):
                    if time.monotonic() - began < MOST_SECONDS:
                        rounds.append(chaos.run(*each))
                time.sleep(2)
            took = time.monotonic() - began
            starts = server.starts
    times = {
        victim: [each.seconds for each in rounds if each.victim == victim] for victim in VICTIMS
    }
    result = {
        "rounds": len(rounds),
        "seconds": round(took),
        "starts": starts,
        "outcomes": dict(Counter(each.outcome for each in rounds)),
        "converged_s": {
            victim: {"rounds": len(found), "median": median(found), "most": max(found)}
            for victim, found in times.items()
            if found
        },
        "httpx": summary(plain, chaos.answers),
        "client": summary(client, chaos.answers),
        "machine": f"{os.cpu_count()} cores, load before {os.getloadavg()[2]:.1f}",
        "seed": seed,
    }
    return result, {"httpx": plain.rows, "client": client.rows}, rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    result, rows, rounds = measure(arguments.rounds, arguments.seed)
    print(json.dumps(result, indent=1), flush=True)
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    detailed = {**result, "each": [asdict(each) for each in rounds]}
    file = RESULTS / f"chaos_swap-{stamp}.json"
    file.write_text(json.dumps(detailed, indent=1) + "\n")
    for name, found in rows.items():
        write(RESULTS / f"chaos_swap-{name}-{stamp}.csv.gz", found)
    client = result["client"]
    lost = client["failed"] + client["hung"] + client["wrong"] + result["httpx"]["wrong"]
    return int(lost > 0 or set(result["outcomes"]) != {"done"})


if __name__ == "__main__":
    sys.exit(main())
