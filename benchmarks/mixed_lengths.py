"""Throughput of batches with texts of different lengths, with all-MiniLM-L6-v2.

    .venv/bin/vestal fetch embedder
    .venv/bin/python -m benchmarks.mixed_lengths [--threads 1] [--batches 4] [--repeats 5]

    vestal      the handler: texts of similar lengths are computed together, padded
    equal       the handler with `pad: false`: only texts of equal lengths are computed together
    padded      the whole batch is padded to its longest text
    one by one  each text alone

All variants take turns on the same batches: random sentences or paragraphs of Python's own
documentation (`pydoc_data.topics`). The vectors must be equal to within 1e-5. With one thread, the
ratios are those of CPU time, which other processes affect less. Rows are written to
results/mixed_lengths.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vestal.archive.runnable import open_model
from vestal.project import Project
from vestal.runs import latest_run

RESULTS = Path(__file__).parent / "results" / "mixed_lengths.csv"
SEED, LONGEST = 0, 256  # tokens that the model can process
SIZES = (8, 32)
Vectors = list[Tensor]


def texts_of(kind: str) -> list[str]:
    """Sentences or paragraphs of prose, in their order."""
    paragraphs = [" ".join(each.split()) for each in "\n\n".join(topics.values()).split("\n\n")]
    prose = [each for each in paragraphs if re.match(r"[A-Z].*[a-z][.:]$", each)]
    if kind == "paragraphs":
        return prose
    return [each for text in prose for each in re.split(r"(?<=[.:]) (?=[A-Z])", text)]


def one_by_one(handler: Any, samples: Sequence[Any]) -> Vectors:
    return [handler.forward([sample])[0][0] for sample in samples]


def vestal(handler: Any, samples: Sequence[Any]) -> Vectors:
    return [vectors[0] for vectors in handler.forward(samples)]


def equal(handler: Any, samples: Sequence[Any]) -> Vectors:
    handler.pads = False
    try:
        return vestal(handler, samples)
    finally:
        handler.pads = True


@torch.inference_mode()
def padded(handler: Any, samples: Sequence[Any]) -> Vectors:
    rows = [sample.rows[0] for sample in samples]
    batch = {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}
    mask = batch["attention_mask"][..., None]
    states = handler.engine(batch)["last_hidden_state"]
    return list((states * mask).sum(1) / mask.sum(1))


VARIANTS: dict[str, Callable[[Any, Sequence[Any]], Vectors]] = {
    "vestal": vestal,
    "equal": equal,
    "padded": padded,
    "one by one": one_by_one,
}


def measure(handler: Any, kind: str, size: int, batches: int, repeats: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    texts, chance = texts_of(kind), random.Random(SEED)
    samples = [
        [
            handler.inputs_of({"text": text, "truncate": "right"})
            for text in chance.sample(texts, size)
        ]
        for _ in range(batches)
    ]
    tokens = sum(len(each.rows[0]["input_ids"]) for batch in samples for each in batch)
    expected = [one_by_one(handler, batch) for batch in samples]
    for repeat in range(repeats):
        for variant, run in VARIANTS.items():
            start, cpu = time.perf_counter(), time.process_time()
            found = [run(handler, batch) for batch in samples]
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            check(variant, found, expected)
            rows.append(
                {
                    "texts": kind,
                    "batch": size,
                    "variant": variant,
                    "repeat": repeat,
                    "batches": batches,
                    "tokens": tokens,
                    "seconds": round(seconds, 4),
                    "cpu_seconds": round(cpu, 4),
                    "load": round(os.getloadavg()[0], 2),  # of the whole machine
                }
            )
    return rows


def check(variant: str, found: list[Vectors], expected: list[Vectors]) -> None:
    difference = max(
        float((one - other).abs().max())
        for batch, other_batch in zip(found, expected, strict=True)
        for one, other in zip(batch, other_batch, strict=True)
    )
    if difference > 1e-5:
        sys.exit(f"{variant}: the vectors differ by {difference:.1e}; nothing was measured")


def report(rows: list[dict[str, Any]], clock: str) -> None:
    """Print the ratios for one kind of texts and one size."""
    times: dict[str, list[float]] = {
        variant: [row[clock] for row in rows if row["variant"] == variant] for variant in VARIANTS
    }
    ours = times.pop("vestal")
    ratios = [
        f"{variant} {statistics.median(a / b for a, b in zip(ours, others, strict=True)):.2f}"
        for variant, others in times.items()
    ]
    setting = f"{rows[0]['texts']}, batch {rows[0]['batch']}"
    print(
        f"{setting}: {statistics.median(ours):.2f} s, in times of {', '.join(ratios)}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="all cores by default")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    project = Project.here()
    rows: list[dict[str, Any]] = []
    with open_model(project, "embedder", weights=latest_run(project, "embedder")) as loaded:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(options.threads or cores)
        handler = loaded._service._entry_point.__self__
        for kind in ("sentences", "paragraphs"):
            for size in SIZES:
                found = measure(handler, kind, size, options.batches, options.repeats)
                report(found, "cpu_seconds" if options.threads == 1 else "seconds")
                rows += found
    machine = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()} {cores} cores",
        "threads": options.threads or cores,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": SEED,
    }
    fresh = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*machine, *rows[0]], lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows({**machine, **row} for row in rows)


if __name__ == "__main__":
    main()
