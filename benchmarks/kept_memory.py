"""Eager ResNet18 with and without the freed memory that workers keep; rows in results.

    python -m benchmarks.kept_memory        # 3 minutes

For each batch size, a process with `vestal_handlers.malloc` and one without it (GLIBC_TUNABLES is
set, to nothing) compute the same batches in turn, with one thread per core.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines import RESULTS, SIDES, pack_side, prepare, process, read_line
from vestal.project import Project

ENGINES = ("eager fp32", "eager fp32 channels-last", "eager bf16 channels-last")
BATCH_SIZES = (1, 8, 32)
SECONDS = 1.0  # of each side in a round
VARIABLES: dict[str, dict[str, str]] = {"kept": {}, "returned": {"GLIBC_TUNABLES": ""}}


def measure(archive: Path, engine: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each side and round."""
    rows = []
    with ExitStack() as opened:
        sides = {
            name: opened.enter_context(process(archive, batch, variables))
            for name, variables in VARIABLES.items()
        }
        for child in sides.values():
            read_line(child)  # the description
        count = 3
        for number in range(-1, rounds):
            for name, child in list(sides.items())[:: 1 if number % 2 else -1]:
                assert child.stdin is not None
                print(count, file=child.stdin, flush=True)
                seconds = read_line(child)
                if number < 0:
                    count = max(3, round(SECONDS / seconds * count))
                    continue
                memory = psutil.Process(child.pid).memory_info().rss
                rows.append(
                    {
                        "engine": engine,
                        "batch": batch,
                        "side": name,
                        "round": number,
                        "ms": round(seconds / count * 1e3, 2),
                        "rss_mb": round(memory / 1e6),
                    }
                )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The medians of each side."""
    return {
        name: {
            key: statistics.median(row[key] for row in rows if row["side"] == name)
            for key in ("ms", "rss_mb")
        }
        for name in VARIABLES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vestal-memory-") as folder:
        project = Project(Path(folder))
        prepare(project)
        for number, engine in enumerate(ENGINES):
            [side] = [each for each in SIDES if each.name == engine]
            archive = pack_side(project, side, f"{number + 1}.0", (Path(), Path()))
            for batch in BATCH_SIZES:
                measured = measure(archive, engine, batch, rounds)
                rows += measured
                print(
                    json.dumps({"engine": engine, "batch": batch, **summary(measured)}), flush=True
                )
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with (RESULTS / f"kept_memory-{stamp}.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
