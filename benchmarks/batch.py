"""Compare `vestal batch` with a plain loop over DataLoader and model: ResNet18, 720 x 720 JPEGs.

    .venv/bin/python -m benchmarks.batch [--pairs 6] [--images 64]

Both run in turn, on the same files and cores. The time of `vestal batch` includes journal and
output, but not the loading of PyTorch and the archive. The plain loop decodes and transforms in the
DataLoader's workers (the warm-up finds the best number of them), and keeps only the labels. Both
use seeded random weights, eager mode, fp32, batches of 8 and full JPEG decoding. Rows are written
to results/batch.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_image
from torchvision.models import resnet18
from torchvision.transforms import v2

from benchmarks.photos import mosaics
from benchmarks.resnet18 import ours, sources
from vestal.batch.run import run

RESULTS = Path(__file__).parent / "results" / "batch.csv"
SEED, BATCH = 0, 8
CORES = len(os.sched_getaffinity(0))


class Photos:
    """A data set of decoded and transformed files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self.transform = v2.Compose(
            [
                v2.Resize(256, antialias=True),
                v2.CenterCrop(224),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        data = torch.frombuffer(bytearray(self.files[index].read_bytes()), dtype=torch.uint8)
        image: Tensor = self.transform(decode_image(data, ImageReadMode.RGB))
        return image


def bare_loop(folder: Path, files: Sequence[Path]) -> Callable[[int], tuple[float, list[str]]]:
    net = resnet18()
    net.load_state_dict(torch.load(folder / "model.pth", weights_only=True))
    net.eval()

    @torch.inference_mode()
    def loop(workers: int) -> tuple[float, list[str]]:
        start = time.perf_counter()
        labels = []
        loader: DataLoader[Tensor] = DataLoader(
            Photos(files),  # type: ignore[arg-type]  # map-style
            batch_size=BATCH,
            num_workers=workers,
        )
        for batch in loader:
            best = torch.softmax(net(batch), dim=1).argmax(dim=1)
            labels += [f"class {index}" for index in best.tolist()]
        return time.perf_counter() - start, labels

    return loop


def vestal_batch(folder: Path, photos: Path) -> Callable[[], tuple[float, list[str]]]:
    archive = ours(folder, {"maxWorkers": CORES, "batchSize": BATCH})
    out = folder / "predictions.csv"

    def batch() -> tuple[float, list[str]]:
        begun = 0.0

        def progress(done: int, failed: int, total: int) -> None:
            nonlocal begun
            begun = begun or time.perf_counter()  # the archive is loaded

        run(archive, [str(photos)], out, overwrite=True, progress=progress)
        seconds = time.perf_counter() - begun
        with out.open(newline="") as stream:
            return seconds, [row["predicted"] for row in csv.DictReader(stream)]

    return batch


def setting() -> dict[str, Any]:
    """Return the columns that are the same in every row."""
    return {
        "when": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {CORES} cores",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision")},
        "model": "resnet18, random weights, eager fp32",
        "input": "JPEG 720 x 720, quality 90, decoded in full",
        "seed": SEED,
        "batch": BATCH,
        "warm_up": "1 run each; the bare loop with each number of workers",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--images", type=int, default=64)
    arguments = parser.parse_args()
    facts, rows = setting(), []
    with tempfile.TemporaryDirectory(prefix="vb-") as name:
        folder = Path(name)
        photos = folder / "photos"
        photos.mkdir()
        sources(folder, SEED)
        for index, image in enumerate(mosaics(arguments.images, seed=SEED)):
            (photos / f"{index:04}.jpg").write_bytes(image)
        bare, batch = bare_loop(folder, sorted(photos.iterdir())), vestal_batch(folder, photos)
        batch()
        tried = {workers: bare(workers)[0] for workers in range(CORES + 1)}
        workers = min(tried, key=lambda count: tried[count])
        ratios = []
        for pair in range(arguments.pairs):
            took: dict[str, float] = {}
            labels: dict[str, list[str]] = {}
            for who in ("ours", "bare loop")[:: 1 if pair % 2 else -1]:
                took[who], labels[who] = batch() if who == "ours" else bare(workers)
            if labels["ours"] != labels["bare loop"]:
                raise RuntimeError("vestal batch and the bare loop answer differently")
            for who, seconds in took.items():
                rate = round(arguments.images / seconds, 2)
                rows.append(
                    {
                        "who": who,
                        "pair": pair,
                        "images": arguments.images,
                        "seconds": round(seconds, 3),
                        "images_per_second": rate,
                        "workers": 1 if who == "ours" else workers,
                        **facts,
                    }
                )
                print(pair, who, rate, flush=True)
            ratios.append(took["bare loop"] / took["ours"])
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(
        f"ours / bare: median {statistics.median(ratios):.2f} of {len(ratios)} pairs "
        f"({min(ratios):.2f} to {max(ratios):.2f}), expected at least 0.90"
    )


if __name__ == "__main__":
    main()
