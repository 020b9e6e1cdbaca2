"""Run a load test and read the result of Locust."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vestal.children import parents_pid
from vestal.errors import UsageError, VestalError
from vestal.files.disk_errors import check_writable

SCENARIO = Path(__file__).with_name("scenario.py")
TOTALS = "totals.json"  # written by the scenario at its end


@dataclass(frozen=True)
class LoadResult:
    """Times in ms over all responses, failed ones included; `failures`: counts by reason."""

    requests: int
    failures: dict[str, int]
    requests_per_second: float
    p50: float
    p95: float
    p99: float
    report: Path


def run_load(
    address: str,
    model: str,
    files: Sequence[Path],
    *,
    users: int,
    seconds: int,
    out: Path,
    token: str | None = None,
    deadline: float = 30.0,
) -> LoadResult:
    """Send the files repeatedly from `users` concurrent users for `seconds`.

    Locust's HTML report, CSV files and log are written to `out`, a new folder.

    Args:
        address: base URL of the inference API.
        model: name of the model, or NAME/VERSION.
        deadline: time limit for one request, in seconds.

    Raises:
        UsageError: no files, or `out` is not empty.
        VestalError: Locust failed; the message has the end of its log.
    """
    if not files:
        raise UsageError("no inputs to send: pass at least one file or folder")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and is not overwritten; pass a new folder with --out")
    if find_spec("locust") is None:
        raise ModuleNotFoundError("locust", name="locust")
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "address": address,
        "model": model,
        "files": [str(file.resolve()) for file in files],
        "deadline": deadline,
        "totals": str((out / TOTALS).resolve()),
    }
    report = out / "report.html"
    command = [sys.executable, "-m", "locust", "--locustfile", str(SCENARIO), "--headless"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"]
    # On a busy machine a short run may end before the first response: wait for open requests.
    command += ["--stop-timeout", str(math.ceil(deadline))]
    command += ["--html", str(report), "--csv", str(out / "load"), "--only-summary"]
    environment = {**os.environ, **parents_pid(), "VESTAL_LOAD": json.dumps(settings)}
    if token:
        environment["VESTAL_LOAD_TOKEN"] = token  # not an argument, which `ps` would show
    with (out / "locust.log").open("w", encoding="utf-8") as log:
        subprocess.run(
            command,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=seconds + deadline + 60,
            check=False,  # Locust exits with 1 if a request failed; the result contains the counts
        )
    return _read(out, report)


def _read(out: Path, report: Path) -> LoadResult:
    # Locust writes its CSV about once a second, so the end of a short run is missing there.
    try:
        total = json.loads((out / TOTALS).read_text("utf-8"))
    except (OSError, ValueError) as error:
        check_writable(out)
        tail = (out / "locust.log").read_text("utf-8")[-800:].strip()
        raise VestalError(f"the load test failed ({error}). End of Locust's log:\n{tail}") from None
    if not total["requests"]:
        raise VestalError(f"no request got a response; see {out / 'locust.log'}")
    return LoadResult(**total, report=report)
