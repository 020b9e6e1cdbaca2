"""ResNet18 over HTTP: int8 and other engines beside TorchServe's handler; rows in results.

    python -m benchmarks.engines_http               # 15 minutes
    python -m benchmarks.engines_http --seconds 4 --rounds 1

720 x 720 JPEGs at 32 and at 1 connection, sent by wrk on the same machine. Each side has a server
of its own, in every round: with the idle workers of six other models in one server, int8 reached
30 requests/s instead of 48. TorchServe's `image_classifier` is tried with batches of 1 and 8 and
with delays of 1 and 5 ms. `bare loop` is the same engine and the same preparation without a server:
one process per core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.engines import BATCH, CORES, SIDES, pack_side, prepare, write_photos
from benchmarks.photos import mosaics
from benchmarks.request_path_servers import wrk
from benchmarks.resnet18 import sources, stock
from vestal.errors import VestalError
from vestal.fleet.server import Server
from vestal.project import Project

RESULTS = Path(__file__).with_name("results")
CONNECTIONS = (1, 32)
WARM_UP_SECONDS = 4
SETTINGS = [(batch, delay) for batch in (1, BATCH) for delay in (1, 5)]
SERVED = ("eager fp32 channels-last", "eager bf16 channels-last", "openvino bf16", "openvino int8")

LOOP = """
import sys, time
from pathlib import Path
import torch
from torchvision.io import ImageReadMode, decode_image
from vestal.inprocess import LoadedArchive

torch.set_num_threads(1)
batch, seconds, files = int(sys.argv[1]), float(sys.argv[2]), sorted(Path(sys.argv[4]).iterdir())
images = [bytearray(file.read_bytes()) for file in files]
with LoadedArchive(Path(sys.argv[3]), batch_size=1) as loaded:
    engine, transform = loaded.handler.engine, loaded.handler.transform
    print("ready", flush=True)
    sys.stdin.readline()
    done, turn, begun = 0, 0, time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - begun < seconds:
            group = [images[(turn + i) % len(images)] for i in range(batch)]
            pixels = [
                decode_image(torch.frombuffer(each, dtype=torch.uint8), ImageReadMode.RGB)
                for each in group
            ]
            output = engine(torch.stack([transform(each) for each in pixels]))
            torch.softmax(output, dim=1).argmax(dim=1).tolist()
            turn, done = turn + batch, done + batch
    print(done / (time.perf_counter() - begun), flush=True)
"""


def bare_loop(archive: Path, photos: Path, seconds: float) -> float:
    """Images per second of one process per core."""
    command = [sys.executable, "-W", "ignore", "-c", LOOP]
    processes = [
        subprocess.Popen(
            [*command, str(BATCH), str(seconds), str(archive), str(photos)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        )
        for _ in range(CORES)
    ]
    for each in processes:
        assert each.stdout is not None
        each.stdout.readline()
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    return sum(float(each.communicate()[0]) for each in processes)


def archives_of(project: Project, photos: tuple[Path, Path]) -> dict[str, str]:
    """Pack every side; return the names of the archives by side."""
    found: dict[str, str] = {}
    for number, side in enumerate(each for each in SIDES if each.name in SERVED):
        try:
            made = pack_side(project, side, f"{number}.0", photos, threads=1)
        except VestalError as error:
            print(f"{side.name}: {error}", flush=True)
            continue
        found[side.name] = f"ours{number}={made.name}"
    folder = project.root / "stock"
    folder.mkdir()
    sources(folder, seed=0)
    for batch, delay in SETTINGS:
        workers = {"minWorkers": CORES, "maxWorkers": CORES, "startupTimeout": 600}
        made = stock(folder, {**workers, "batchSize": batch, "maxBatchDelay": delay})
        name = f"stock{batch}-{delay}"
        made.rename(project.model_store / f"{name}.mar")
        found[f"stock, batch {batch}, delay {delay} ms"] = f"{name}={name}.mar"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", help="beginnings of their names; default: all")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    os.environ["OMP_NUM_THREADS"] = "1"  # the stock handler's best
    with tempfile.TemporaryDirectory(prefix="vestal-http-") as folder:
        project = Project(Path(folder))
        prepare(project)
        photos = write_photos(project.root)
        names = archives_of(project, photos)
        files = mosaics(16, seed=2)
        int8 = project.model_store / names["openvino int8"].partition("=")[2]
        chosen = tuple(arguments.sides or [""])
        for _ in range(arguments.rounds):
            rate = bare_loop(int8, photos[0], arguments.seconds)
            rows.append(row("bare loop, openvino int8", 0, {"per_second": round(rate, 1)}))
            for side, name in names.items():
                if not side.startswith(chosen):
                    continue
                with Server(project, [name], port=0, timeout=300) as server:
                    keys = json.loads(Path(str(server.ready.key_file)).read_text())
                    token = f"Bearer {keys['inference']['key']}"
                    url = f"{server.ready.inference}/predictions/{name.partition('=')[0]}"
                    wrk(Path(folder), url, token, files, max(CONNECTIONS), WARM_UP_SECONDS)
                    for users in CONNECTIONS:
                        found = wrk(Path(folder), url, token, files, users, arguments.seconds)
                        rows.append(row(side, users, found))
                        print(json.dumps(rows[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with (RESULTS / f"engines_http-{stamp}.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)
    for users in (0, *CONNECTIONS):
        for side in dict.fromkeys(each["side"] for each in rows if each["connections"] == users):
            rates = [
                r["per_second"] for r in rows if (r["side"], r["connections"]) == (side, users)
            ]
            print(json.dumps({"connections": users, side: statistics.median(rates)}))


def row(side: str, users: int, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "side": side,
        "connections": users,
        "per_second": found["per_second"],
        "p50_ms": found.get("p50_ms", ""),
        "failures": found.get("failures", 0),
        "load": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    main()
