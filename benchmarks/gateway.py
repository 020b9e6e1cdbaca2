"""Cost of the gateway: the same requests to TorchServe directly and through Envoy, in one run.

    python -m benchmarks.gateway                # no-op, mnist and resnet18: 15 minutes
    python -m benchmarks.gateway noop --rounds 1 --seconds 3

wrk (https://github.com/wg/wrk) keeps 1, 8 and 32 connections busy, with one thread, on the same
machine. Both sides alternate in each round; the gateway checks an API key, limits bodies and writes
its access log. Rows in benchmarks/results/gateway-*.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.swaps import RESULTS, serve
from vestal.archive.pack import pack
from vestal.project import Project, ReadyFile
from vestal.training.settings import Settings
from vestal.training.train import train

MODELS = ("noop", "mnist", "resnet18")
CONNECTIONS = (1, 8, 32)
SIDES = ("direct", "gateway")
WARM_UP_SECONDS = 5.0
NOOP = """
def handle(data, context):
    return None if data is None else [b"{}"] * len(data)
"""
SERVING = """\
models:
  {model}: {{version: "1.0", workers: 2}}
gateway: {{port: 0, api_keys: keys.yaml}}
"""
LUA = """\
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*all")
wrk.headers["Authorization"] = "Bearer {token}"
wrk.headers["Content-Type"] = "application/octet-stream"
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Row:
    """One run of wrk. Latencies in ms."""

    model: str
    round: int
    connections: int
    side: str
    rate: float
    p50: float
    p99: float
    failed: int


def prepare(project: Project, model: str, key: str) -> bytes:
    """Make the archive and the files of the project; return the input."""
    keys = project.root / "keys.yaml"
    keys.touch(mode=0o600)
    keys.write_text(f"bench: {{key: {key}}}\n")
    (project.root / "serving.yaml").write_text(SERVING.format(model=model))
    if model == "noop":
        with tempfile.TemporaryDirectory() as folder:
            handler = Path(folder) / "noop_handler.py"
            handler.write_text(NOOP)
            config = Path(folder) / "model-config.yaml"
            config.write_text("batchSize: 8\nmaxBatchDelay: 1\n")
            project.model_store.mkdir()
            program = str(Path(sys.executable).with_name("torch-model-archiver"))
            options = ["--model-name", model, "--version", "1.0", "--handler", str(handler)]
            files = ["--config-file", str(config), "--export-path", str(project.model_store)]
            subprocess.run([program, *options, *files], check=True)
        return bytes(1024)
    run = train(project, model, Settings(dataset="digits", epochs=1, device="cpu"))
    pack(project, model, version="1.0", weights=run.folder)
    return (run.folder / "sample" / "input.png").read_bytes()


def measure(
    url: str, token: str, body: Path, connections: int, seconds: float
) -> tuple[float, float, float, int]:
    """Run wrk; return requests per second, p50 and p99 in ms, and failed requests."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA.format(body=body, token=token))
        script.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "--latency"]
        text = subprocess.run(
            ["wrk", *options, "-s", script.name, url], check=True, capture_output=True, text=True
        ).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    quantiles = re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", text)
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    failed += sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", text)))
    assert rate is not None, text
    p50, p99 = (float(value) * _UNITS[unit] for _, value, unit in quantiles)
    return float(rate[1]), p50, p99, failed


def run(model: str, rounds: int, seconds: float) -> Iterator[Row]:
    """Measure one model."""
    key = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="vg-") as folder:
        project = Project(Path(folder) / "project")
        project.root.mkdir()
        body = project.root / "body"
        body.write_bytes(prepare(project, model, key))
        with serve(project, "keeper"):
            ready = ReadyFile.read(project.ready_file)
            token = json.loads(project.key_file.read_text())["inference"]["key"]
            assert ready.gateway is not None
            sides = {"direct": (ready.inference, token), "gateway": (ready.gateway, key)}
            for number in range(rounds + 1):
                for connections in CONNECTIONS:
                    for side in SIDES if number % 2 else reversed(SIDES):
                        base, secret = sides[side]
                        url = f"{base}/predictions/{model}"
                        length = seconds if number else WARM_UP_SECONDS
                        result = measure(url, secret, body, connections, length)
                        if number:
                            yield Row(model, number, connections, side, *result)


def summary(rows: list[Row]) -> Iterator[str]:
    """Compare the medians of the rounds."""
    for model in dict.fromkeys(row.model for row in rows):
        for connections in CONNECTIONS:
            chosen = [r for r in rows if (r.model, r.connections) == (model, connections)]
            direct, through = ([r for r in chosen if r.side == side] for side in SIDES)
            rates = [statistics.median(r.rate for r in part) for part in (direct, through)]
            p50s = [statistics.median(r.p50 for r in part) for part in (direct, through)]
            p99s = [statistics.median(r.p99 for r in part) for part in (direct, through)]
            yield (
                f"{model} {connections} connections: {rates[0]:.0f} -> {rates[1]:.0f} requests/s "
                f"({rates[1] / rates[0] - 1:+.0%}), p50 {p50s[0]:.2f} -> {p50s[1]:.2f} ms, "
                f"p99 {p99s[0]:.1f} -> {p99s[1]:.1f} ms, "
                f"{sum(r.failed for r in chosen)} failed"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    load = os.getloadavg()[1]
    rows: list[Row] = []
    for model in arguments.models:
        for row in run(model, arguments.rounds, arguments.seconds):
            rows.append(row)
            print(row, flush=True)
    print("\n".join(summary(rows)))
    print(f"{os.cpu_count()} cores, load before {load:.1f}")
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with (RESULTS / f"gateway-{stamp}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(asdict(rows[0])))
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
