"""Swaps of versions under steady open-loop load; rows in benchmarks/results/swaps-*.

    python -m benchmarks.swaps                  # mnist and resnet18, 50 swaps each: 25 minutes
    python -m benchmarks.swaps mnist --swaps 5  # a short form
    python -m benchmarks.swaps mnist --side naive

The load is 25 % of the saturation that is measured first, Poisson arrivals, plain httpx without
retries. A swap lasts from the change of the desired state to the end of the keeper's work, with two
workers per version. The sides: `keeper`; `normal-priority`, the keeper whose starting workers do
not yield to the others; `naive`: register, set-default and unregister, as TorchServe documents it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.open_load import OpenLoad, Row, quantile, saturate, write
from vestal import Client
from vestal.archive.pack import pack
from vestal.fleet.keeper_client import KeeperClient
from vestal.fleet.status import Source
from vestal.mar.sample import find_difference
from vestal.project import Project, ReadyFile
from vestal.training.settings import Settings
from vestal.training.train import train

RESULTS = Path(__file__).with_name("results")
VERSIONS = ("1.0", "2.0")
SHARE = 0.25
BASELINE_SECONDS = 60.0
PAUSE_SECONDS = 2.0
START_SECONDS = 300.0
SIDES = ("keeper", "normal-priority", "naive")
NORMAL_PRIORITY = """\
from vestal.fleet import priority
priority.is_reversible = lambda: False
from vestal.cli import main
main()
"""
SERVING = """\
models:
  {model}:
    version: "1.0"
    workers: {workers}
    settle_time: 2s
"""


def prepare(project: Project, model: str, workers: int = 2) -> bytes:
    """Train and pack two versions; return the input."""
    for version, seed in zip(VERSIONS, (0, 1), strict=True):
        run = train(project, model, Settings(dataset="digits", epochs=1, seed=seed, device="cpu"))
        pack(project, model, version=version, weights=run.folder)
    (project.root / "serving.yaml").write_text(SERVING.format(model=model, workers=workers))
    return (project.runs / model / "1" / "sample" / "input.png").read_bytes()


@contextlib.contextmanager
def serve(project: Project, side: str) -> Iterator[None]:
    """Run `vestal serve` with the project's serving.yaml."""
    program = ["-c", NORMAL_PRIORITY] if side == "normal-priority" else ["-m", "vestal"]
    command = [sys.executable, *program, "serve", "--port", "0"]
    with (project.root / "serve.log").open("w") as log:
        process = subprocess.Popen(command, cwd=project.root, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not project.ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((project.root / "serve.log").read_text())
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def begin_swap(project: Project, model: str, version: str) -> int:
    """Change the default version; return the number of the revision."""
    keeper = KeeperClient(project)
    base, desired = keeper.desired()
    target = desired.models[model]
    (known,) = target.versions.values()
    archive = project.model_store / f"{model}-{version}.mar"
    index = json.loads((project.model_store / "index.json").read_text())
    new = known.model_copy(
        update={"archive": archive.name, "sha256": index[archive.name]["sha256"]}
    )
    changed = target.model_copy(update={"default": version, "versions": {version: new}})
    source = Source(command="benchmarks.swaps", user=str(os.getuid()))
    desired = desired.model_copy(update={"models": {model: changed}})
    number = keeper.apply(desired, source, base).number
    keeper.close()
    return number


def swap(project: Project, model: str, version: str, on_step: Callable[[str], None]) -> str:
    """Change the default version; return the outcome when the keeper is done.

    Args:
        on_step: called with the name of each step that begins.
    """
    number = begin_swap(project, model, version)
    keeper = KeeperClient(project)
    after = 0
    while True:
        (revision,) = [each for each in keeper.revisions() if each.number == number]
        if revision.outcome is not None:
            keeper.close()
            return (
                revision.outcome
                if revision.reason is None
                else f"{revision.outcome}: {revision.reason}"
            )
        for event in keeper.events(after, 5):
            after = event.number
            if event.revision != number:
                continue
            if event.kind == "started":
                on_step(str(event.step))
            if event.kind in ("converged", "rejected"):
                break


def naive(project: Project, model: str, version: str, on_step: Callable[[str], None]) -> str:
    """Swap as TorchServe documents it: register, set-default, unregister."""
    (old,) = {*VERSIONS} - {version}
    with Client(_urls(project)["url"], **_urls(project)["more"], timeout=120) as client:
        on_step("register")
        client.register(f"{model}-{version}.mar", model=model, workers=2)
        on_step("switch")
        client.set_default(model, version)
        on_step("remove")
        client.unregister(model, old, drain=False)
    return "done"


def _urls(project: Project) -> dict[str, Any]:
    ready = ReadyFile.read(project.ready_file)
    more = {
        "management": ready.management,
        "metrics": ready.metrics,
        "key_file": str(project.key_file),
    }
    return {"url": ready.inference, "more": more}


def measure(model: str, swaps: int, side: str) -> tuple[dict[str, Any], list[Row]]:
    """Run the baseline and the swaps; return the summary and all rows."""
    with tempfile.TemporaryDirectory(prefix="vs-") as folder:
        project = Project(Path(folder) / "project")
        project.root.mkdir()
        body = prepare(project, model)
        with serve(project, side):
            answers = {VERSIONS[0]: answer_of(project, model, VERSIONS[0], body)}
            ready = ReadyFile.read(project.ready_file)
            keys = json.loads(project.key_file.read_text())
            headers = {"Authorization": f"Bearer {keys['inference']['key']}"}
            url = f"{ready.inference}/predictions/{model}"
            saturation = asyncio.run(saturate(url, body, headers))
            outcomes, seconds = [], []
            with OpenLoad(project, model, body, SHARE * saturation, seed=0) as load:
                time.sleep(BASELINE_SECONDS)
                for number, version in zip(range(swaps), itertools.cycle(reversed(VERSIONS))):

                    def on_step(step: str) -> None:
                        load.phase = f"swap {number} {step}"  # noqa: B023

                    began = time.monotonic()
                    change = naive if side == "naive" else swap
                    outcomes.append(change(project, model, version, on_step))
                    seconds.append(time.monotonic() - began)
                    answers.setdefault(version, answer_of(project, model, version, body))
                    load.phase = "between"
                    time.sleep(PAUSE_SECONDS)
    return summary(model, load.rows, saturation, outcomes, seconds, answers), load.rows


def answer_of(project: Project, model: str, version: str, body: bytes) -> Any:
    """Return the prediction of a version that is served."""
    urls = _urls(project)
    with Client(urls["url"], **urls["more"]) as client:
        return client.predict(model, body, version=version).value


def is_right(row: Row, answers: dict[str, Any]) -> bool:
    """Whether it is the answer of the version that it names; batches differ in the last digits."""
    expected = answers.get(row.version)
    return expected is not None and find_difference(expected, json.loads(row.answer)) is None


def summary(
    model: str,
    rows: list[Row],
    saturation: float,
    outcomes: list[str],
    seconds: list[float],
    answers: dict[str, Any],
) -> dict[str, Any]:
    """Count what failed, and compare the latencies."""
    baseline = [row for row in rows if row.phase == "baseline"]
    during = [row for row in rows if row.phase.startswith("swap")]
    wrong = sum(row.status == 200 and not is_right(row, answers) for row in rows)
    p99 = [quantile(part, 0.99) for part in (baseline, during)]
    steps: dict[str, list[Row]] = {}
    for row in during:
        steps.setdefault(row.phase.split()[-1], []).append(row)
    return {
        "model": model,
        "swaps": len(outcomes),
        "outcomes": dict(Counter(outcomes)),
        "seconds_median": round(sorted(seconds)[len(seconds) // 2], 1),
        "saturation": round(saturation, 1),
        "rate": round(SHARE * saturation, 1),
        "requests": len(rows),
        "failed": sum(row.status not in (0, 200) for row in rows),
        "hung": sum(row.status == 0 for row in rows),
        "wrong": wrong,
        "versions": dict(Counter(row.version for row in rows)),
        "p50_ms": [round(1000 * quantile(part, 0.5), 1) for part in (baseline, during)],
        "p99_ms": [round(1000 * each, 1) for each in p99],
        "p99_ratio": round(p99[1] / p99[0], 2),
        "p99_ms_by_step": {
            step: [len(part), round(1000 * quantile(part, 0.99), 1)] for step, part in steps.items()
        },
        "machine": f"{os.cpu_count()} cores, load before {os.getloadavg()[1]:.1f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["mnist", "resnet18"])
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--side", choices=SIDES, default="keeper")
    arguments = parser.parse_args()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    bad = 0
    for model in arguments.models:
        result, rows = measure(model, arguments.swaps, arguments.side)
        print(json.dumps(result), flush=True)
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"swaps-{model}-{arguments.side}-{stamp}"
        file.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        write(file.with_suffix(".csv.gz"), rows)
        if arguments.side != "naive":
            bad += bool(result["failed"] or result["hung"] or result["wrong"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
