"""CPU time of a request to the MNIST CNN, by part, before and after a change; also over HTTP.

    .venv/bin/python -m benchmarks.request_path [--before REVISION] [--seconds 4] [--rounds 3]
        [--mosec PYTHON]

In process: a process per side calls TorchServe's `Service` with batches of 1 and 8 requests, as a
worker does, with the metrics of `vestal serve`; the sides take turns. Over HTTP: each side has a
server of its own in every round, with two workers, loaded by wrk; the no-op handler is the cost of
the server itself.
`--mosec` is the Python of an environment with mosec and torch. All use seeded random weights, eager
fp32, and the digits of scikit-learn as PNGs of 28 x 28. Rows are written to results/.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from vestal.project import Project

RESULTS = Path(__file__).parent / "results"
METRICS = Path(__file__).parents[1] / "vestal" / "configuration" / "metrics.yaml"
IMAGES, BATCHES = 64, 100  # BATCHES per measurement in process
# The maxBatchDelay of each side in ms; 10 was the default of the zoo.
SIDES = {
    "before": 1,
    "before-10ms": 10,
    "after": 1,
    "channels-last": 1,
    "openvino": 1,
    "stock": 1,
    "stock-5ms": 5,
    "noop": 1,
}
HEADERS = {
    "Host": "127.0.0.1:8080",
    "Authorization": "Bearer AAAAAAAA",
    "Content-Type": "image/png",
    "Content-Length": "500",
    "explain": "False",
    "url_path": "",
}
Row = dict[str, Any]


def images() -> list[bytes]:
    files = []
    for digit in load_digits().images[:IMAGES]:
        stream = BytesIO()
        Image.fromarray(np.uint8(digit * 255 / 16)).resize((28, 28)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


class Parts:
    """CPU seconds of functions, without those that they call, in every thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._local = threading.local()
        self._wrapped: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            outer = getattr(self._local, "inner", 0.0)
            self._local.inner, start = 0.0, time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                took = time.thread_time() - start
                self.seconds[part] += took - self._local.inner
                self._local.inner = outer + took

        self._wrapped.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, timed)

    def unwrap(self) -> None:
        for owner, name, attribute in self._wrapped:
            if attribute is None:  # it was a method of the class
                delattr(owner, name)
            else:
                setattr(owner, name, attribute)


def work(folder: Path) -> None:
    """Run as a worker; for each batch size on stdin, print microseconds per request."""
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import TsModelLoader

    cache = MetricsCacheYamlImpl(str(METRICS))
    cache.initialize_cache()
    cache.model_name = "mnist"
    service = TsModelLoader().load("mnist", str(folder), "handler.py", None, 8, metrics_cache=cache)
    service.set_cl_socket(None)
    assert Path(sys.modules["vestal_handlers"].__file__ or "").is_relative_to(folder)
    files = images()
    run(service, files, 8)
    for measured in iter(sys.stdin.readline, ""):
        size, parts = json.loads(measured)
        if parts:
            print(json.dumps(by_part(service, cache, files, size)), flush=True)
        else:
            print(json.dumps(run(service, files, size)), flush=True)


def run(service: Any, files: list[bytes], size: int) -> dict[str, float]:
    """CPU microseconds per request, and the median microseconds of a batch."""
    batches = [[message(files, start + i) for i in range(size)] for start in range(BATCHES)]
    walls, cpu = [], time.process_time()
    for batch in batches:
        began = time.perf_counter()
        service.predict(batch)
        walls.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    return {"total": cpu / BATCHES / size * 1e6, "batch_wall": median(walls) * 1e6}


def message(files: list[bytes], index: int) -> dict[str, Any]:
    value = bytearray(files[index % len(files)])
    headers = [{"name": k.encode(), "value": v.encode()} for k, v in HEADERS.items()]
    part = {"name": "body", "contentType": "image/png", "value": value}
    return {"requestId": b"%036d" % index, "headers": headers, "parameters": [part]}


def by_part(service: Any, cache: Any, files: list[bytes], size: int) -> dict[str, float]:
    """CPU microseconds per request by part; the clock adds a few."""
    handler, parts = service._entry_point.__self__, Parts()
    names = {"_read": "read", "_decode_one": "decode", "forward": "stack", "postprocess": "encode"}
    for name, part in names.items():
        parts.wrap(handler, name, part)
    parts.wrap(handler, "engine", "forward")
    parts.wrap(handler.metrics, "observe", "metrics")
    parts.wrap(cache, "add_time", "metrics")
    if hasattr(handler.metrics, "_log"):
        parts.wrap(handler.metrics._log, "flush", "metrics")
    total = run(service, files, size)["total"]
    parts.unwrap()
    found = {part: seconds / BATCHES / size * 1e6 for part, seconds in parts.seconds.items()}
    return {**found, "rest": total - sum(found.values())}


def in_process(project: Project, rounds: int) -> Iterator[Row]:
    with ExitStack() as stack:
        sides = {}
        for side in ("before", "after"):
            folder = project.root / f"unpacked-{side}"
            with zipfile.ZipFile(project.model_store / f"{side}-1.0.mar") as archive:
                archive.extractall(folder)
            # TorchServe reads the worker's output through a pipe.
            reader = stack.enter_context(
                subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            )
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.request_path", "--work", str(folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=reader.stdin,
                    text=True,
                    env={**os.environ, "OMP_WAIT_POLICY": "passive"},
                )
            )
            stack.callback(process.kill)
            assert reader.stdin is not None
            reader.stdin.close()
            sides[side] = process
        for number in range(rounds):
            for size in (1, 8):
                for parts in (False, True):
                    for side, process in list(sides.items())[:: 1 if number % 2 else -1]:
                        assert process.stdin is not None
                        assert process.stdout is not None
                        print(json.dumps([size, parts]), file=process.stdin, flush=True)
                        found = json.loads(process.stdout.readline())
                        for part, value in found.items():
                            where = {"what": "in process", "side": side, "batch": size}
                            yield {**where, "round": number, "part": part, "us": round(value, 1)}


def summary(rows: list[Row]) -> str:
    """The medians of all rounds, in lines of text."""

    def value(key: str, **where: Any) -> float:
        found = [r[key] for r in rows if all(r.get(k) == v for k, v in where.items())]
        return median(found) if found else float("nan")

    lines = []
    for size in (1, 8):
        for side in dict.fromkeys(r["side"] for r in rows if r["what"] == "in process"):
            at = {"what": "in process", "side": side, "batch": size}
            names = ("total", "read", "decode", "stack", "forward", "encode", "metrics", "rest")
            parts = [f"{name} {value('us', part=name, **at):.0f}" for name in names]
            lines.append(f"in process, batch {size}, {side}: us per request: {', '.join(parts)}")
    for users in (1, 32):
        for side in dict.fromkeys(r["side"] for r in rows if r["what"] == "http"):
            at = {"what": "http", "side": side, "connections": users}
            lines.append(
                f"http, {users} connections, {side}: {value('per_second', **at):.0f} requests/s, "
                f"p50 {value('p50_ms', **at):.2f} ms"
                + ("" if side.startswith("mosec") else f", worker {value('us', **at):.0f} us")
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", default="72218a8", help="git revision to compare with")
    parser.add_argument("--seconds", type=float, default=4, help="of load per side and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="over HTTP")
    parser.add_argument("--mosec", type=Path, help="Python of an environment with mosec")
    parser.add_argument("--only", choices=("process", "http"), help="measure only one of the two")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    # A worker imports the `vestal_handlers` of its archive, so Vestal is imported only here.
    from benchmarks.request_path_servers import over_http, write_archives
    from vestal.project import Project

    when = datetime.now().astimezone()
    facts = {
        "when": when.isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, torch {version('torch')}",
        "before": given.before,
    }
    rows: list[Row] = []
    names = ["what", "side", "batch", "connections", "round", "part", "us", "requests"]
    names += ["per_second", "failures", "p50_ms", "load", *facts]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vb-"))
        file = RESULTS / f"request_path-{when:%Y%m%dT%H%M%SZ}.csv"
        stream = stack.enter_context(file.open("w", newline=""))
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        project = Project(Path(folder))
        write_archives(project, given.before, SIDES)
        ways: list[Callable[[], Iterator[Row]]] = []
        if given.only != "http":
            ways.append(lambda: in_process(project, given.rounds * 2))
        if given.only != "process":
            ways.append(
                lambda: over_http(
                    project, given.sides, images(), given.seconds, given.rounds, given.mosec
                )
            )
        for way in ways:
            for row in way():
                rows.append({**row, "load": round(os.getloadavg()[0], 1), **facts})
                writer.writerow(rows[-1])
                if row["what"] == "http" or row["part"] == "total":
                    stream.flush()
                    print({k: v for k, v in row.items() if k != "what"}, flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
