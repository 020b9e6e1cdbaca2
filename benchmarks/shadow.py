"""A live version with and without a shadow; rows in benchmarks/results/shadow-*.

    python -m benchmarks.shadow                               # mnist and resnet18: 25 minutes
    python -m benchmarks.shadow mnist --rounds 2 --seconds 10   # a short form

Both sides use one server, gateway and load: the shadow version is loaded all the time, and gets
copies of all requests (or of `--sample` percent) in every second round. The load is 25 % of the
saturation through the gateway, which is measured first without copies; Poisson arrivals, plain
httpx without retries. One worker per version, without batches, so that each right response is equal
to the byte.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.open_load import OpenLoad, Row, quantile, saturate, write
from benchmarks.swaps import serve
from vestal.archive.pack import pack
from vestal.configuration.ports import free_ports
from vestal.fleet.desired import Shadow
from vestal.fleet.keeper_client import KeeperClient
from vestal.fleet.status import Source
from vestal.model_folders import zoo
from vestal.project import Project
from vestal.shadow.report import make_report
from vestal.training.settings import Settings
from vestal.training.train import train

RESULTS = Path(__file__).with_name("results")
LIVE, SHADOW = "1.0", "2.0"
SHARE = 0.25
WARM_UP_SECONDS = 10.0
SIDES = ("without", "with")
CONFIG = """\
minWorkers: 1
maxWorkers: 1
batchSize: 1
responseTimeout: 60
startupTimeout: 120
handler: {top_k: 3, threads: 1}
"""
SERVING = """\
models:
  {model}:
    version: "{live}"
    also: ["{shadow}"]
    settle_time: 0
gateway:
  port: {port}
"""


def prepare(project: Project, model: str, port: int) -> bytes:
    """Train and pack two versions, one of them for an epoch more; return the input."""
    folder = shutil.copytree(zoo() / model, project.models / model)
    (folder / "model-config.yaml").write_text(CONFIG)
    first = train(project, model, Settings(dataset="digits", epochs=1, device="cpu"))
    more = Settings(dataset="digits", epochs=1, device="cpu", initial_weights=str(first.folder))
    second = train(project, model, more)
    for version, run in ((LIVE, first), (SHADOW, second)):
        pack(project, model, version=version, weights=run.folder)
    text = SERVING.format(model=model, live=LIVE, shadow=SHADOW, port=port)
    (project.root / "serving.yaml").write_text(text)
    return (first.folder / "sample" / "input.png").read_bytes()


def set_shadow(project: Project, model: str, side: str, sample: float) -> None:
    """Copy `sample` percent of the requests, or none; return when the keeper has done it."""
    keeper = KeeperClient(project)
    base, desired = keeper.desired()
    shadow = Shadow(version=SHADOW, sample=sample) if side == "with" else None
    changed = desired.models[model].model_copy(update={"shadow": shadow})
    desired = desired.model_copy(update={"models": {model: changed}})
    source = Source(command="benchmarks.shadow", user=str(os.getuid()))
    number = keeper.apply(desired, source, base).number
    while not any(each.number == number and each.outcome for each in keeper.revisions()):
        time.sleep(0.1)
    keeper.close()
    time.sleep(1.0)  # the gateway reads its routes again


def measure(
    model: str, rounds: int, seconds: float, sample: float
) -> tuple[dict[str, Any], list[Row]]:
    """Run all rounds; return the summary and all rows."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        project = Project(Path(folder) / "project")
        project.root.mkdir()
        (port,) = free_ports("127.0.0.1", 1)
        base = f"http://127.0.0.1:{port}"
        body = prepare(project, model, port)
        with serve(project, "keeper"):
            expected = httpx.post(f"{base}/predictions/{model}", content=body, timeout=30).text
            saturation = asyncio.run(saturate(f"{base}/predictions/{model}", body, {}))
            with OpenLoad(project, model, body, SHARE * saturation, seed=0, base=base) as load:
                load.phase = "warm-up"
                time.sleep(WARM_UP_SECONDS)
                for number in range(rounds):
                    # The sides take turns in being the first.
                    for side in SIDES if number % 2 else reversed(SIDES):
                        load.phase = "change"
                        set_shadow(project, model, side, sample)
                        load.phase = f"{side} {number}"
                        time.sleep(seconds)
            load_rows = load.rows
        report = make_report(project.shadow, model, SHADOW, 1e-4)
    found = summary(model, load_rows, rounds, saturation, expected)
    comparisons = [[each.version, each.compared, each.equal] for each in report.comparisons]
    not_compared = {"live": dict(report.live), "shadow": dict(report.shadow)}
    return {
        **found,
        "sample": sample,
        "compared": comparisons,
        "not_compared": not_compared,
    }, load_rows


def summary(
    model: str, rows: Sequence[Row], rounds: int, saturation: float, expected: str
) -> dict[str, Any]:
    """Compare the latencies of both sides, over all rounds and round by round."""
    sides = {side: [row for row in rows if row.phase.startswith(f"{side} ")] for side in SIDES}
    ratios = []
    for number in range(rounds):
        parts = [[row for row in rows if row.phase == f"{side} {number}"] for side in SIDES]
        ratios.append(round(quantile(parts[1], 0.99) / quantile(parts[0], 0.99), 2))
    p99 = {side: quantile(part, 0.99) for side, part in sides.items()}
    return {
        "model": model,
        "rounds": rounds,
        "saturation": round(saturation, 1),
        "rate": round(SHARE * saturation, 1),
        "requests": {side: len(part) for side, part in sides.items()},
        "failed": sum(row.status != 200 for row in rows),
        "wrong": sum(row.status == 200 and row.answer != expected for row in rows),
        "versions": sorted({row.version for row in rows if row.status == 200}),
        "p50_ms": {side: round(1000 * quantile(part, 0.5), 2) for side, part in sides.items()},
        "p99_ms": {side: round(1000 * each, 2) for side, each in p99.items()},
        "p99_ratio": round(p99["with"] / p99["without"], 2),
        "p99_ratios": ratios,
        "machine": f"{os.cpu_count()} cores, load before {os.getloadavg()[1]:.1f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["mnist", "resnet18"])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sample", type=float, default=100.0, help="percent that is copied")
    arguments = parser.parse_args()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    bad = 0
    for model in arguments.models:
        result, rows = measure(model, arguments.rounds, arguments.seconds, arguments.sample)
        print(json.dumps(result), flush=True)
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"shadow-{model}-{stamp}"
        file.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        write(file.with_suffix(".csv.gz"), rows)
        bad += bool(result["failed"] or result["wrong"] or result["versions"] != [LIVE])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
