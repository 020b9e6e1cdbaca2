"""Compare image classifiers, ResNet18 on 720 x 720 JPEGs: Vestal, a plain loop, TorchServe.

    .venv/bin/python -m benchmarks.handlers [--seconds 15] [--rounds 2] [--pairs 8]

In process: batches of 8 through the handler, in turn with a plain loop of decode, transform and
forward, on the same threads. Over HTTP: 32 connections without pauses, one server at a time, with
the load generator on the same machine. All use seeded random weights, eager mode, fp32 and full
JPEG decoding; Vestal's handler uses `channels_last`. Rows are written to results/handlers.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import requests
import torch
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import resnet18
from torchvision.transforms import v2

from benchmarks.photos import mosaics
from benchmarks.resnet18 import ours, sources, stock
from vestal.errors import VestalError
from vestal.fleet.server import Server
from vestal.inprocess import LoadedArchive
from vestal.loadtest.run import run_load
from vestal.project import Project, ReadyFile

RESULTS = Path(__file__).parent / "results" / "handlers.csv"
SEED, BATCH, CONNECTIONS, IMAGES = 0, 8, 32, 32
CORES = len(os.sched_getaffinity(0))
OURS = {"handler": {"channels_last": True}}
BEST = {"minWorkers": CORES, "maxWorkers": CORES, "batchSize": BATCH, "maxBatchDelay": 5}
AS_IT_COMES = {"minWorkers": CORES, "maxWorkers": CORES}  # one worker per core, batches of one
# name, how it is packed, model-config.yaml, environment of the server
SERVERS: list[tuple[str, Callable[..., Path], dict[str, Any], dict[str, str]]] = [
    ("ours, best", ours, {**BEST, **OURS}, {}),
    ("stock, best", stock, BEST, {"OMP_NUM_THREADS": "1"}),
    ("stock, as it comes", stock, AS_IT_COMES, {}),
]


def bare_loop(folder: Path) -> Callable[[list[bytes]], list[str]]:
    """Load, eval, decode, transform, forward, softmax, argmax, as in a script."""
    net = resnet18()
    net.load_state_dict(torch.load(folder / "model.pth", weights_only=True))
    net.eval()
    transform = v2.Compose(
        [
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def predict(files: list[bytes]) -> list[str]:
        images = [
            decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8), ImageReadMode.RGB)
            for file in files
        ]
        with torch.inference_mode():
            output = net(torch.stack([transform(image) for image in images]))
        best = torch.softmax(output, dim=1).argmax(dim=1)
        return [f"class {index}" for index in best.tolist()]

    return predict


def in_process(folder: Path, images: list[bytes], pairs: int) -> Iterator[dict[str, Any]]:
    """Measure two batches of each in turn; return the ratio of each pair."""
    archive = ours(folder, {"maxWorkers": 1, "batchSize": BATCH, **OURS})
    with LoadedArchive(archive) as loaded:
        bare = bare_loop(folder)

        def through_handler(files: list[bytes]) -> list[str]:
            return [answer.json()["label"] for answer in loaded.predict(files)]

        ways = {"ours": through_handler, "bare loop": bare}
        batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
        for pair in range(-1, pairs):  # the first is the warm-up
            group = [batches[(2 * pair + step) % len(batches)] for step in (0, 1)]
            answers = {}
            for who, way in list(ways.items())[:: 1 if pair % 2 else -1]:
                start = time.perf_counter()
                answers[who] = [way(batch) for batch in group]
                seconds = time.perf_counter() - start
                if pair >= 0:
                    yield row("in process", who, pair, 2 * BATCH, seconds)
            if answers["ours"] != answers["bare loop"]:
                raise RuntimeError("the handler and the bare loop answer differently")


def over_http(
    folder: Path, files: list[Path], seconds: int, repeat: int
) -> Iterator[dict[str, Any]]:
    for number, (who, pack, config, environment) in enumerate(SERVERS):
        name = pack(folder, config).stem
        with environ(environment), Server(Project(folder), [f"{name}.mar"], port=0) as server:
            out = folder / f"load-{repeat}-{number}"
            url, keys = server.ready.inference, token(server.ready)
            more: dict[str, Any] = {"users": CONNECTIONS, "token": keys, "deadline": 60}
            with suppress(
                VestalError
            ):  # the slowest server may complete no request in such a short time
                run_load(url, name, files, seconds=max(5, seconds // 4), out=out / "warm", **more)
            # Wait for the requests of the warm-up that are still in the queue.
            requests.post(
                f"{url}/predictions/{name}",
                data=files[0].read_bytes(),
                headers={"Authorization": f"Bearer {keys}"},
                timeout=60,
            ).raise_for_status()
            found = run_load(url, name, files, seconds=seconds, out=out / "measured", **more)
        yield {
            **row("http", who, repeat, found.requests, found.requests / found.requests_per_second),
            "failures": sum(found.failures.values()),
            "p50_ms": found.p50,
            "p95_ms": found.p95,
            "p99_ms": found.p99,
        }


@contextmanager
def environ(added: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def token(ready: ReadyFile) -> str | None:
    if not ready.key_file:
        return None
    keys: dict[str, Any] = json.loads(Path(ready.key_file).read_text())
    return str(keys["inference"]["key"])


def row(part: str, who: str, repeat: int, images: int, seconds: float) -> dict[str, Any]:
    return {
        "part": part,
        "who": who,
        "repeat": repeat,
        "images": images,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 2),
        "failures": 0,
        "p50_ms": "",
        "p95_ms": "",
        "p99_ms": "",
    }


def setting(seconds: int) -> dict[str, Any]:
    """Return the columns that are the same in every row."""
    return {
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {CORES} cores",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "torchserve")},
        "model": "resnet18, random weights, eager fp32; ours channels-last",
        "input": "JPEG 720 x 720, quality 90, decoded in full",
        "seed": SEED,
        "batch": BATCH,
        "connections": CONNECTIONS,
        "warm_up": "1 pair; load of a quarter of the duration",
        "duration_s": seconds,
    }


def summary(rows: list[dict[str, Any]]) -> str:
    def rates(part: str, who: str) -> list[float]:
        return [r["images_per_second"] for r in rows if (r["part"], r["who"]) == (part, who)]

    lines = []
    pairs = list(zip(rates("in process", "ours"), rates("in process", "bare loop"), strict=True))
    if pairs:
        ratios = [ours / bare for ours, bare in pairs]
        each = [statistics.median(column) for column in zip(*pairs, strict=True)]
        lines.append(
            f"in process: ours {each[0]:.1f}, bare loop {each[1]:.1f} images/s; ours / bare: "
            f"median {statistics.median(ratios):.2f} of {len(ratios)} pairs "
            f"({min(ratios):.2f} to {max(ratios):.2f}), expected at least 0.90"
        )
    for who, *_ in SERVERS:
        found = rates("http", who)
        if found:
            median = statistics.median(found)
            lines.append(f"http, {who}: {median:.1f} images/s ({min(found)} to {max(found)})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=int, default=15, help="of load for each server")
    parser.add_argument("--rounds", type=int, default=2, help="of all servers")
    parser.add_argument("--pairs", type=int, default=8, help="in process")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    facts = setting(arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="vb-") as name:
        folder = Path(name)
        sources(folder, SEED)
        images = mosaics(IMAGES, seed=SEED)
        files = [folder / f"{index}.jpg" for index in range(len(images))]
        for file, image in zip(files, images, strict=True):
            file.write_bytes(image)
        rounds = [
            over_http(folder, files, arguments.seconds, repeat)
            for repeat in range(arguments.rounds)
        ]
        for found in chain(in_process(folder, images, arguments.pairs), *rounds):
            rows.append({**found, **facts})
            print(found["part"], found["who"], found["images_per_second"], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
