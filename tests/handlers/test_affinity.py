"""No engine pins its threads to cores: workers that pin would all pin to the first ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

FILES = ("model.pth", "model.pt", "model.onnx", "model.xml")
# Each worker is a process; a pinned thread has fewer cores than its process.
WORKER = """
import json, os, sys
from pathlib import Path

import torch
from vestal_handlers import engines

torch.set_num_threads(2)
shape, *files = json.loads(sys.argv[1])
threads = {}
for file in files:
    engine = engines.load(Path(file), torch.device("cpu"))
    for _ in range(3):
        engine(torch.rand(*shape))
    for task in Path("/proc/self/task").iterdir():
        threads.setdefault(task.name, (file, sorted(os.sched_getaffinity(int(task.name)))))
print(json.dumps(list(threads.values())))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_every_thread_of_every_engine_may_run_on_every_core(conv):
    files = [str(conv.folder / name) for name in FILES]
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            WORKER,
            json.dumps([[2, *conv.inputs.shape[1:]], *files]),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    threads = json.loads(done.stdout.splitlines()[-1])
    assert len(threads) > 1
    pinned = [(file, cores) for file, cores in threads if cores != sorted(os.sched_getaffinity(0))]
    assert pinned == []
