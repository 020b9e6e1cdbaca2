"""Memory of one and two workers with a model of 500 MB, by the format of its weights.

    python -m benchmarks.shared_weights        # 2 minutes; rows in benchmarks/results

Each process loads the artifact with Vestal's engine, computes two batches, and reports its
proportional set size (PSS), in which a page that two processes share counts half for each. `second`
is what the second process adds: about nothing but Python and torch if the weights are shared.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

RESULTS = Path(__file__).with_name("results")
MODEL = """
from torch import nn

def build():
    return nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(8)))
"""
WORKER = """
import sys, torch
from pathlib import Path
from vestal_handlers import engines
torch.set_num_threads(1)
engine = engines.load(Path(sys.argv[1]), torch.device("cpu")) if sys.argv[1] else None
if engine is not None:
    with torch.inference_mode():
        for rows in (1, 8):
            engine(torch.randn(rows, 4096))
print("ready", flush=True)
sys.stdin.read()
"""


def make_artifacts(folder: Path) -> dict[str, str]:
    """Write the model in each format; return the paths by name."""
    import openvino
    from safetensors.torch import save_file

    (folder / "model.py").write_text(MODEL)
    module = torch.nn.Sequential(*(torch.nn.Linear(4096, 4096) for _ in range(8)))
    torch.save(module.state_dict(), folder / "model.pth")
    save_file(module.state_dict(), folder / "model.safetensors")
    torch.jit.save(torch.jit.script(module), folder / "model.pt")
    program = torch.export.export(
        module, (torch.zeros(2, 4096),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)
    )
    openvino.save_model(
        openvino.convert_model(program), folder / "model.xml", compress_to_fp16=False
    )
    files = ("model.pth", "model.safetensors", "model.pt", "model.xml")
    return {"none": "", **{name: str(folder / name) for name in files}}


def pss(artifact: str, count: int) -> float:
    """The sum of the PSS of `count` processes, in MB."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, artifact],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(count)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            if b"ready" not in worker.stdout.readline():
                raise RuntimeError(f"a process did not load {artifact}")
        return sum(psutil.Process(each.pid).memory_full_info().pss for each in workers) / 1e6
    finally:
        for worker in workers:
            worker.communicate()


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="vestal-shared-") as folder:
        for name, artifact in make_artifacts(Path(folder)).items():
            one, two = pss(artifact, 1), pss(artifact, 2)
            rows.append(
                {
                    "weights": name,
                    "one_mb": round(one),
                    "two_mb": round(two),
                    "second": round(two - one),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with (RESULTS / f"shared_weights-{stamp}.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
