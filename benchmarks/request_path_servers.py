"""Archives and servers of `benchmarks.request_path`: Vestal, TorchServe's own handler, mosec."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.handlers import environ, token
from vestal.archive.pack import pack
from vestal.client import Client
from vestal.fleet.server import Server
from vestal.project import Project
from vestal.recipes.recipe import load_recipe

ROOT = Path(__file__).parents[1]
WORKERS, BATCH = 2, 8
SEED = 0

# As TorchServe's example for MNIST; the handler's base class is TorchServe's.
STOCK_HANDLER = """
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class Digits(ImageClassifier):
    image_processing = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
"""
NO_OP = "def handle(data, context):\n    return None if data is None else [b'{}'] * len(data)\n"
MOSEC = """
import os
import sys
from io import BytesIO

import numpy as np
import torch
from mosec import Server, Worker
from PIL import Image

sys.path.insert(0, os.getcwd())
from model import build


class Digits(Worker):
    def __init__(self):
        super().__init__()
        torch.set_num_threads(1)
        self.model = build()
        self.model.load_state_dict(torch.load("mnist.pth", weights_only=True))
        self.model.eval()

    def deserialize(self, data):
        return np.asarray(Image.open(BytesIO(data)), dtype=np.float32)

    def forward(self, data):
        batch = (torch.from_numpy(np.stack(data)).unsqueeze(1) / 255 - 0.1307) / 0.3081
        with torch.inference_mode():
            best = torch.topk(self.model(batch).softmax(-1), 3)
        return [
            {"label": str(index[0]), "probability": value[0], "top": list(zip(index, value))}
            for value, index in zip(best.values.tolist(), best.indices.tolist())
        ]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Digits, num=2, max_batch_size=int(os.environ["BATCH"]), max_wait_time=1)
    server.run()
"""


def write_archives(project: Project, before: str, sides: Mapping[str, int]) -> None:
    """Write an archive for each side, with its maxBatchDelay in ms, into the model store.

    Args:
        before: a git revision, whose `vestal_handlers` the sides named "before..." use.
    """
    torch.manual_seed(SEED)
    module = load_recipe(project, "mnist").make(tuple("0123456789"))
    torch.save(module.state_dict(), project.root / "mnist.pth")
    weights = project.root / "mnist.pth"
    ours, openvino = (
        _contents(pack(project, "mnist", version=version, weights=weights, engine=engine).archive)
        for version, engine in (("1.0", None), ("2.0", "openvino"))
    )
    plain = {name: ours[name] for name in ("model.pth", "model.py") if name in ours}
    labels = {"index_to_name.json": ours["index_to_name.json"]}
    for name, delay in sides.items():
        if name.startswith("before"):
            rest = {k: v for k, v in ours.items() if not k.startswith("vestal_handlers/")}
            files = rest | handlers_of(before)
        elif name.startswith("stock"):
            files = plain | labels | {"handler.py": STOCK_HANDLER.encode()}
        elif name == "noop":
            files = plain | {"handler.py": NO_OP.encode()}
        else:
            files = dict(openvino if name == "openvino" else ours)
        manifest = json.loads(files.get("MAR-INF/MANIFEST.json", ours["MAR-INF/MANIFEST.json"]))
        manifest["model"] |= {"modelName": name, "handler": "handler.py"}
        if name.startswith("stock"):
            manifest["model"]["modelFile"] = "model.py"
            files["model.py"] = files["model.py"].split(b"def build")[0]
        config: dict[str, Any] = {"minWorkers": WORKERS, "maxWorkers": WORKERS, "batchSize": BATCH}
        config |= {"maxBatchDelay": delay, "startupTimeout": 600}
        if name == "channels-last":
            config["handler"] = {"channels_last": True}
        files["model-config.yaml"] = json.dumps(config).encode()
        files["MAR-INF/MANIFEST.json"] = json.dumps(manifest).encode()
        with zipfile.ZipFile(project.model_store / f"{name}-1.0.mar", "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)


def _contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        found = {name: opened.read(name) for name in opened.namelist()}
    archive.unlink()
    return found


def handlers_of(revision: str) -> dict[str, bytes]:
    """Read `vestal_handlers` of a git revision, by path in an archive."""
    command = ["git", "archive", "--format=tar", f"{revision}:handlers", "vestal_handlers"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        found = ((member.name, tar.extractfile(member)) for member in tar if member.isfile())
        return {name: stream.read() for name, stream in found if stream}


def over_http(
    project: Project,
    sides: Sequence[str],
    files: list[bytes],
    seconds: float,
    rounds: int,
    python: Path | None,
) -> Iterator[dict[str, Any]]:
    """Load one server after the other; the order changes with each round.

    Args:
        python: of an environment with mosec; None: without it.
    """
    others = [f"mosec-{batch}" for batch in (8, 32)] if python else []
    names = [*sides, *others]
    for number in range(rounds):
        for side in names[:: 1 if number % 2 else -1]:
            with ExitStack() as stack:
                key, pids = "", list[int]()
                if python and side in others:
                    batch = int(side.removeprefix("mosec-"))
                    url = stack.enter_context(mosec(python, project.root, batch, 18_700 + batch))
                else:
                    url, key, pids = stack.enter_context(_served(project, side))
                wrk(project.root, url, key, files, 32, 3)  # warms up
                for users in (1, 32):
                    cpu = cpu_seconds(pids)
                    found = wrk(project.root, url, key, files, users, seconds)
                    cpu = (cpu_seconds(pids) - cpu) / max(found["requests"], 1) * 1e6
                    where = {"what": "http", "side": side, "connections": users}
                    yield {**where, "round": number, "us": round(cpu, 1) if pids else "", **found}


@contextmanager
def _served(project: Project, side: str) -> Iterator[tuple[str, str, list[int]]]:
    """Serve one archive; yields the URL, the value of Authorization, and the workers' pids."""
    with ExitStack() as stack:
        stack.enter_context(environ({"OMP_NUM_THREADS": "1"}))
        server = stack.enter_context(Server(project, [f"{side}-1.0.mar"], port=0, timeout=600))
        ready = server.ready
        with Client(
            ready.inference, management=ready.management, key_file=project.key_file
        ) as client:
            pids = [worker.pid for worker in client.describe(side).workers]
        yield (
            f"{ready.inference}/predictions/{side}",
            f"Bearer {token(ready)}",
            [pid for pid in pids if pid],
        )


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes and all their threads."""
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def wrk(
    folder: Path, url: str, token: str, files: list[bytes], users: int, seconds: float
) -> dict[str, Any]:
    """Send images in turn over connections without pauses; return counts and the median in ms."""
    for index, data in enumerate(files):
        (folder / f"{index}.png").write_bytes(data)
    script = folder / "request.lua"
    script.write_text(
        f"""
local bodies, turn = {{}}, 0
for i = 0, {len(files) - 1} do
  local file = io.open("{folder}/" .. i .. ".png", "rb")
  bodies[i] = file:read("*all")
  file:close()  -- wrk cannot watch sockets with numbers above its connections
end
wrk.method = "POST"
wrk.headers["Content-Type"] = "image/png"
wrk.headers["Authorization"] = "{token}"
request = function()
  turn = (turn + 1) % {len(files)}
  return wrk.format(nil, nil, nil, bodies[turn])
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration,
    errors.status + errors.read + errors.write + errors.connect + errors.timeout,
    latency:percentile(50)))
end
"""
    )
    command = ["wrk", "-t1", f"-c{users}", f"-d{seconds:g}s", "--timeout", "30s"]
    done = subprocess.run(
        [*command, "-s", str(script), url], check=True, capture_output=True, text=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    count, duration, failures, median = map(int, line.split()[1:])
    if not count:
        raise RuntimeError(f"{url} responds to no request of wrk:\n{done.stdout}")
    return {
        "requests": count,
        "per_second": round(count / duration * 1e6, 1),
        "failures": failures,
        "p50_ms": round(median / 1000, 3),
    }


@contextmanager
def mosec(python: Path, folder: Path, batch: int, port: int) -> Iterator[str]:
    """Run mosec; yields the URL."""
    (folder / "mosec_server.py").write_text(MOSEC)
    (folder / "model.py").write_text((ROOT / "models/mnist/model.py").read_text())
    arguments = ["--port", str(port), "--address", "127.0.0.1", "--log-level", "warning"]
    process = subprocess.Popen(
        [str(python), "mosec_server.py", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
        | {"BATCH": str(batch)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("mosec did not start")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/inference"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
