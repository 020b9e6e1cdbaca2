"""Time of `vestal pack`, `vestal check` and the first prediction of `vestal run`, with resnet18.

    .venv/bin/python -m benchmarks.archives [--rounds 5]

Each command runs in a new process, in turn with a plain `import torch`, which takes most of the
time. The weights are random. Rows are written to results/archives.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.photos import mosaics

RESULTS = Path(__file__).parent / "results" / "archives.csv"
COMMANDS = {
    "import torch": "-c 'import torch'",
    "pack": "-m vestal pack resnet18 --version 1.0 --weights random --force",
    "check": "-m vestal check --run model_store/resnet18-1.0.mar",
    "run": "-m vestal run resnet18-1.0 photo.jpg",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photo.jpg").write_bytes(mosaics(1)[0])
        for _ in range(rounds + 1):
            for name, command in COMMANDS.items():
                began = time.perf_counter()
                words = [sys.executable, *shlex.split(command)]
                subprocess.run(words, cwd=folder, check=True, capture_output=True)
                seconds[name].append(time.perf_counter() - began)
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.machine()}"
    versions = f"Python {platform.python_version()}, torch {version('torch')}"
    fresh = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(("when", "what", "round", "seconds", "machine", "versions"))
        when = datetime.now().isoformat(timespec="seconds")
        for name, found in seconds.items():
            for number, value in enumerate(
                found[1:], start=1
            ):  # the first round fills the disk cache
                writer.writerow((when, name, number, f"{value:.2f}", machine, versions))
    for name, found in seconds.items():
        print(f"{name:13} {statistics.median(found[1:]):6.2f} s  (most {max(found[1:]):.2f})")


if __name__ == "__main__":
    main()
