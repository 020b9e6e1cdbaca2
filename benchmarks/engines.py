"""ResNet18 by engine and precision, in process; rows in benchmarks/results/engines-*.csv.

    python -m benchmarks.engines                # 4 minutes
    python -m benchmarks.engines --rounds 3     # a short form

Each engine is loaded by Vestal from its own archive, in a process of its own with one thread per
core and idle threads that do not spin. In each round all of them compute the same batches in turn,
so the ratios compare what ran within seconds of each other. A round is void if eager, the baseline,
is more than 30 % off its median. Weights are random with a fixed seed; int8 is calibrated with
photographs. Engines that this CPU cannot run are listed with the reason.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.photos import mosaics
from vestal.archive.pack import pack
from vestal.cli.run_inputs import RunInputs, requests_of
from vestal.errors import VestalError
from vestal.model_folders import zoo
from vestal.optimize.data import OptimizationData
from vestal.project import Project

RESULTS = Path(__file__).with_name("results")
BATCH, BATCHES = 8, 3  # images in a batch, batches in a round
BASELINE = "eager fp32"
OFF = 0.3  # of its median, above which a round is void
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Side:
    """What `vestal pack` gets, and options of the handler."""

    name: str
    engine: str | None = None
    precision: str | None = None
    channels_last: bool = False


SIDES = (
    Side(BASELINE),
    Side("eager fp32 channels-last", channels_last=True),
    Side("eager bf16 channels-last", precision="bf16", channels_last=True),
    Side("compiled fp32 channels-last", "compiled", channels_last=True),
    Side("compiled bf16 channels-last", "compiled", "bf16", channels_last=True),
    Side("onnx fp32", "onnx"),
    Side("onnx int8", "onnx", "int8"),
    Side("openvino fp32", "openvino"),
    Side("openvino bf16", "openvino", "bf16"),
    Side("openvino int8", "openvino", "int8"),
)

CHILD = """
import json, sys, time
import torch
from vestal.inprocess import LoadedArchive
from pathlib import Path

batch, archive = int(sys.argv[1]), Path(sys.argv[2])
with LoadedArchive(archive, batch_size=1) as loaded:
    engine = loaded.handler.engine
    torch.manual_seed(0)
    inputs = torch.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        engine(inputs)
        print(json.dumps(engine.describe()), flush=True)
        for line in sys.stdin:
            engine(inputs)  # what another process has evicted from the caches
            begun = time.perf_counter()
            for _ in range(int(line)):
                engine(inputs)
            print(time.perf_counter() - begun, flush=True)
"""


def write_photos(folder: Path) -> tuple[Path, Path]:
    """Write photographs for the calibration and others for the evaluation."""
    for name, count, seed in (("calibration", 64, 0), ("evaluation", 32, 1)):
        (folder / name).mkdir()
        for index, data in enumerate(mosaics(count, seed=seed)):
            (folder / name / f"{index}.jpg").write_bytes(data)
    return folder / "calibration", folder / "evaluation"


def pack_side(
    project: Project,
    side: Side,
    version: str,
    photos: tuple[Path, Path],
    threads: int = CORES,
) -> Path:
    """Pack resnet18 with random weights; the labels of random weights mean nothing."""
    config = project.models / "resnet18" / "model-config.yaml"
    options: dict[str, Any] = {"threads": threads, "channels_last": side.channels_last}
    workers = {"minWorkers": CORES, "maxWorkers": CORES, "batchSize": BATCH, "maxBatchDelay": 1}
    config.write_text(json.dumps({**workers, "startupTimeout": 600, "handler": options}))
    data = OptimizationData(str(photos[0]), str(photos[1]), max_drop=100)
    return pack(
        project,
        "resnet18",
        version=version,
        weights="random",
        engine=side.engine,
        precision=side.precision,
        data=data if side.precision == "int8" else None,
        read=lambda path, schema: requests_of(RunInputs([str(path)]).read(), schema),
    ).archive


@contextmanager
def process(
    archive: Path, batch: int = BATCH, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that has the archive loaded, and computes as many batches as it reads.

    Args:
        variables: of its environment.
    """
    environment = {"OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "passive"}
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(batch), str(archive)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment, **(variables or {})},
    )
    try:
        yield child
    finally:
        child.communicate()


def read_line(child: subprocess.Popen[str]) -> Any:
    assert child.stdout is not None
    return json.loads(child.stdout.readline())


def measure(archives: dict[str, Path], rounds: int) -> list[dict[str, Any]]:
    """Let every side compute in turn; return a row for each side and round."""
    rows = []
    with ExitStack() as opened:
        children = {n: opened.enter_context(process(each)) for n, each in archives.items()}
        described = {name: read_line(child) for name, child in children.items()}
        for number in range(rounds):
            order = list(children) if number % 2 else list(reversed(children))
            for name in order:
                child = children[name]
                assert child.stdin is not None
                child.stdin.write(f"{BATCHES}\n")
                child.stdin.flush()
                seconds = read_line(child)
                rows.append(
                    {
                        "side": name,
                        "round": number,
                        "seconds": round(seconds, 4),
                        "images_per_second": round(BATCH * BATCHES / seconds, 2),
                        "layers": json.dumps(described[name].get("layers", "")),
                        "runtime": described[name]["runtime"],
                        "load": round(os.getloadavg()[0], 2),
                    }
                )
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of the ratios to the baseline of the same round, without void rounds."""
    rate = {(row["side"], row["round"]): row["images_per_second"] for row in rows}
    base = {number: value for (side, number), value in rate.items() if side == BASELINE}
    middle = statistics.median(base.values())
    valid = [number for number, value in base.items() if abs(value / middle - 1) <= OFF]
    sides = dict.fromkeys(side for side, _ in rate)
    return {
        side: {
            "images_per_second": statistics.median(rate[side, number] for number in valid),
            "ratio": round(statistics.median(rate[side, n] / base[n] for n in valid), 2),
            "rounds": len(valid),
        }
        for side in sides
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="vestal-engines-") as folder:
        project = Project(Path(folder))
        prepare(project)
        photos = write_photos(project.root)
        archives: dict[str, Path] = {}
        for number, side in enumerate(SIDES):
            try:
                archives[side.name] = pack_side(project, side, f"{number}.0", photos)
            except VestalError as error:
                print(f"{side.name}: {error}", flush=True)
        rows = measure(archives, rounds)
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with (RESULTS / f"engines-{stamp}.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name, found in summary(rows).items():
        print(json.dumps({"side": name, **found}))


def prepare(project: Project) -> None:
    """Copy the zoo's resnet18, so that its model-config.yaml can be changed."""
    shutil.copytree(zoo() / "resnet18", project.models / "resnet18")


if __name__ == "__main__":
    main()
