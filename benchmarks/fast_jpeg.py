"""Effect of `fast_jpeg` on labels, probabilities and preparation time of a seeded ResNet18.

    .venv/bin/python -m benchmarks.fast_jpeg

The weights are random. Batch norm is fitted to similar images, because otherwise all images would
get the same label.
"""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from benchmarks.photos import TILE, mosaics
from vestal_handlers.images.decoding import ImageTransform

RESULTS = Path(__file__).parent / "results" / "fast_jpeg.csv"
COUNT = {2: 128, 4: 64, 8: 16}
TRANSFORM = ImageTransform(
    "RGB",
    (
        v2.Resize(256, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
)


def prepared(data: bytes, fast_jpeg: bool) -> tuple[Tensor, float]:
    start = time.perf_counter()
    tensor = TRANSFORM(TRANSFORM.decode(bytearray(data), 10**9, fast_jpeg))
    return tensor, time.perf_counter() - start


def model() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = resnet18()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        net(torch.stack([prepared(data, False)[0] for data in mosaics(32, seed=1)]))
    return net.eval()


def main() -> None:
    torch.set_num_threads(1)
    net = model()
    rows = []
    for tiles, count in COUNT.items():
        both: dict[bool, list[Tensor]] = {False: [], True: []}
        pixels, seconds = [], {False: list[float](), True: list[float]()}
        for data in mosaics(count, tiles):
            images = []
            for fast in (False, True):
                tensor, took = prepared(data, fast)
                images.append(tensor)
                seconds[fast].append(took)
                with torch.no_grad():
                    both[fast].append(torch.softmax(net(tensor[None])[0], dim=0))
            pixels.append((images[0] - images[1]).abs().mean().item())
        plain, scaled = torch.stack(both[False]), torch.stack(both[True])
        rows.append(
            {
                "side": tiles * TILE,
                "images": count,
                "labels": len(set(plain.argmax(1).tolist())),
                "top1_agreement": (plain.argmax(1) == scaled.argmax(1)).float().mean().item(),
                "largest_probability_difference": (plain - scaled).abs().max().item(),
                "mean_input_difference": statistics.mean(pixels),
                "plain_ms": statistics.median(seconds[False]) * 1e3,
                "fast_ms": statistics.median(seconds[True]) * 1e3,
                "seed": 0,
                "torch": torch.__version__,
            }
        )
        print(rows[-1])
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
