"""Time until two models serve again after kill -9 of `vestal serve`; rows in results/restart.csv.

    python -m benchmarks.restart [--rounds 5]

mnist and resnet18 with one worker each, both of the zoo. In each round, `vestal serve` is killed
and started again at once, as a supervisor does. The time is from the kill to the first response
with status 200 of each model.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import httpx

from benchmarks.photos import mosaics
from benchmarks.supervised import Supervised
from vestal.archive.pack import pack
from vestal.project import Project
from vestal.training.settings import Settings
from vestal.training.train import train

RESULTS = Path(__file__).parent / "results" / "restart.csv"
MODELS = ("mnist", "resnet18")
LIMIT_SECONDS = 30.0
TIMEOUT_SECONDS = 120.0
SERVING = "models:\n" + "".join(f'  {name}:\n    version: "1.0"\n' for name in MODELS)


def prepare(project: Project) -> dict[str, bytes]:
    """Pack both models; return an input of each."""
    run = train(project, "mnist", Settings(dataset="digits", epochs=1, seed=0, device="cpu"))
    pack(project, "mnist", version="1.0", weights=run.folder)
    pack(project, "resnet18", version="1.0", weights="random")
    (project.root / "serving.yaml").write_text(SERVING)
    return {
        "mnist": (run.folder / "sample" / "input.png").read_bytes(),
        "resnet18": mosaics(1)[0],
    }


def wait_for_answers(server: Supervised, bodies: dict[str, bytes]) -> dict[str, float]:
    """Return the seconds until each model has responded."""
    began, answered = time.monotonic(), dict[str, float]()
    with httpx.Client(timeout=5, trust_env=False) as client:
        while len(answered) < len(bodies):
            if time.monotonic() - began > TIMEOUT_SECONDS:
                raise RuntimeError(f"only {[*answered]} responded within {TIMEOUT_SECONDS:g} s")
            for name in bodies.keys() - answered.keys():
                if _answers(client, server, name, bodies[name]):
                    answered[name] = time.monotonic() - began
            time.sleep(0.05)
    return answered


def _answers(client: httpx.Client, server: Supervised, model: str, body: bytes) -> bool:
    try:
        keys = json.loads(server.project.key_file.read_text())
        headers = {
            "Authorization": f"Bearer {keys['inference']['key']}",
            "Content-Type": "application/octet-stream",
        }
        url = f"{server.inference}/predictions/{model}"
        return client.post(url, content=body, headers=headers).status_code == 200
    except (OSError, ValueError, httpx.HTTPError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="vr-") as folder:
        project = Project(Path(folder) / "project")
        project.root.mkdir()
        bodies = prepare(project)
        with Supervised(project) as server:
            wait_for_answers(server, bodies)
            for _ in range(rounds):
                server.kill()
                found.append(wait_for_answers(server, bodies))
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.machine()}"
    versions = f"Python {platform.python_version()}, torch {version('torch')}"
    fresh = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(("when", "model", "round", "seconds", "machine", "versions"))
        when = datetime.now().isoformat(timespec="seconds")
        for number, seconds in enumerate(found, start=1):
            for name in MODELS:
                writer.writerow((when, name, number, f"{seconds[name]:.2f}", machine, versions))
    both = [max(seconds.values()) for seconds in found]
    print(f"both serve after {statistics.median(both):.1f} s (most {max(both):.1f})")
    return int(max(both) > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
