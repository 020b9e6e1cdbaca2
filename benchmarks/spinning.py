"""Cost of idle OpenMP threads that spin while other processes use the cores.

    .venv/bin/python -m benchmarks.spinning [--seconds 3] [--models mnist] [--commands]

A worker is the handler of a packed archive in its own process, with two torch threads. A competitor
is a process that computes all the time. A quota of one CPU is a cgroup, if one can be created.
`--commands` measures `vestal evaluate` instead. Rows are written to results/spinning.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

from benchmarks.photos import mosaics
from vestal.archive.pack import pack
from vestal.inprocess import LoadedArchive
from vestal.project import Project
from vestal.recipes.recipe import load_recipe

RESULTS = Path(__file__).parent / "results" / "spinning.csv"
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
}
# Commands set OMP_WAIT_POLICY unless one of three variables is set. This one is for Intel's and
# LLVM's OpenMP; libgomp, which torch uses on Linux, ignores it.
COMMANDS = SETTINGS | {"default": {"KMP_BLOCKTIME": "200"}}
SET_HERE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
CPU_GROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
BATCHES = {"mnist": 1, "resnet18": 8}
MOST = 90.0  # seconds of a command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--models", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--commands", action="store_true")
    parser.add_argument("--work", nargs=2, metavar=("ARCHIVE", "BATCH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(Path(given.work[0]), int(given.work[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        archives = prepare(project, ["mnist"] if given.commands else given.models)
        found = commands(project) if given.commands else workers(archives, given.seconds)
        write(found)


def prepare(project: Project, names: Sequence[str]) -> dict[str, Path]:
    """Pack the archives, with random weights and two threads each."""
    module = load_recipe(project, "mnist").make(tuple("0123456789"))
    torch.save(module.state_dict(), project.root / "mnist.pth")
    weights: dict[str, str | Path] = {"mnist": project.root / "mnist.pth", "resnet18": "random"}
    return {
        name: pack(project, name, version="1.0", weights=weights[name]).archive for name in names
    }


def work(archive: Path, batch: int) -> None:
    """Run as a worker: read lines (seconds, or a cgroup to join), and print a line for each."""
    with LoadedArchive(archive, batch_size=1) as loaded:
        torch.set_num_threads(2)
        images = [small(image) for image in mosaics(batch)]
        loaded.predict(images)
        print("ready", flush=True)
        for line in sys.stdin:
            if line.startswith("/"):
                Path(line.strip()).write_text(str(os.getpid()))
                print("joined", flush=True)
                continue
            began, done = time.perf_counter(), 0
            while time.perf_counter() - began < float(line):
                done += len(loaded.predict(images))
            # A batch may take longer than the requested time.
            print(done / (time.perf_counter() - began), flush=True)


def small(image: bytes) -> bytes:
    """Return an image of 64 x 64 pixels, so that decoding takes little time."""
    target = BytesIO()
    Image.open(BytesIO(image)).resize((64, 64)).save(target, "JPEG")
    return target.getvalue()


def workers(archives: dict[str, Path], seconds: float) -> Iterator[tuple[str, str, str, float]]:
    for name, archive in archives.items():
        for setting, variables in SETTINGS.items():
            command = ("-m", "benchmarks.spinning", "--work", str(archive), str(BATCHES[name]))
            with started([command] * 2, variables) as both:
                one = both[:1]
                yield name, setting, "1 worker, quiet", together(one, seconds)
                with started([("-c", "while True: pass")] * 2, {}, ready=False):
                    yield name, setting, "1 worker, 2 competitors", together(one, seconds)
                yield name, setting, "2 workers", together(both, seconds)
                with quota() as group:
                    if group:
                        say(one[0], str(group))
                        yield name, setting, "1 worker, quota of 1 CPU", together(one, seconds)
                        say(one[0], str(group.parent.parent / "cgroup.procs"))


def commands(project: Project) -> Iterator[tuple[str, str, str, float]]:
    evaluate = ("-m", "vestal", "evaluate", "mnist-1.0.mar", "--dataset", "digits", "--json")
    for setting, variables in COMMANDS.items():
        for competitors in (0, 2):
            with started([("-c", "while True: pass")] * competitors, {}, ready=False):
                began = time.perf_counter()
                command = [sys.executable, *evaluate]
                with suppress(subprocess.TimeoutExpired):
                    subprocess.run(
                        command,
                        cwd=project.model_store,
                        env=environment(variables),
                        capture_output=True,
                        check=True,
                        timeout=MOST,
                    )
                took = time.perf_counter() - began
            yield "vestal evaluate", setting, f"{competitors} competitors (seconds)", took


def environment(variables: dict[str, str]) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if k not in SET_HERE}, **variables}


@contextmanager
def started(
    commands: Sequence[Sequence[str]], variables: dict[str, str], ready: bool = True
) -> Iterator[list[subprocess.Popen[str]]]:
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, *command],
                    env=environment(variables),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for command in commands
        ]
        for process in running:
            stack.callback(process.kill)
        for process in running if ready else ():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield running


def say(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline()


def together(running: Sequence[subprocess.Popen[str]], seconds: float) -> float:
    """Return images per second of all workers together."""
    for process in running:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    return sum(float(process.stdout.readline()) for process in running if process.stdout)


@contextmanager
def quota() -> Iterator[Path | None]:
    """Create a cgroup with one CPU; return its file of processes, or None without permission."""
    root = next((root for root in CPU_GROUPS if (root / "cgroup.procs").is_file()), None)
    group = root / f"vestal-spinning-{os.getpid()}" if root else None
    try:
        assert group
        group.mkdir()
        limit = group / "cpu.max"
        limit = limit if limit.exists() else group / "cpu.cfs_quota_us"
        limit.write_text("100000")
    except (AssertionError, OSError):
        yield None
        return
    try:
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def write(found: Iterator[tuple[str, str, str, float]]) -> None:
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    versions = f"Python {platform.python_version()}, torch {version('torch')}"
    fresh = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            header = ("when", "what", "setting", "case", "rate", "load", "machine", "versions")
            writer.writerow(header)
        for what, setting, case, rate in found:
            when = datetime.now().isoformat(timespec="seconds")
            load = f"{os.getloadavg()[0]:.1f}"
            writer.writerow((when, what, setting, case, f"{rate:.2f}", load, machine, versions))
            file.flush()
            print(f"{what:16} {setting:24} {case:28} {rate:9.2f}", flush=True)


if __name__ == "__main__":
    main()
