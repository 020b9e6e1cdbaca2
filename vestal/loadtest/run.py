"""Runs a load test and reads what Locust found."""

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
from vestal.files.storage import check_room

SCENARIO = Path(__file__).with_name("scenario.py")
TOTALS = "totals.json"  # what the scenario writes at its end


@dataclass(frozen=True)
class LoadResult:
    """Times in ms over all answers, good and bad; `failures`: how many by reason."""

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
    """Sends the files again and again, from `users` at once, for `seconds`.

    Locust's HTML report, its CSVs and its log stay in `out`, a new folder.

    Args:
        address: of the inference API, on this machine or another that is yours to load.
        deadline: of one request, in seconds.

    Raises:
        UsageError: no files, or `out` holds something already.
        VestalError: Locust did not run; the message holds the end of its log.
    """
    if not files:
        raise UsageError("no images to send: name at least one file or folder")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give --out a new folder, nothing is overwritten")
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
    # On a busy machine a short run may end before the first response: those under way count too.
    command += ["--stop-timeout", str(math.ceil(deadline))]
    command += ["--html", str(report), "--csv", str(out / "load"), "--only-summary"]
    environment = {**os.environ, **parents_pid(), "VESTAL_LOAD": json.dumps(settings)}
    if token:
        environment["VESTAL_LOAD_TOKEN"] = token  # not an argument: `ps` shows those
    with (out / "locust.log").open("w", encoding="utf-8") as log:
        subprocess.run(
            command,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=seconds + deadline + 60,
            check=False,  # Locust exits with 1 when a request failed: the counts say it better
        )
    return _read(out, report)


def _read(out: Path, report: Path) -> LoadResult:
    # Not Locust's own CSV: it writes that every second or so, and a short run's end is missing.
    try:
        total = json.loads((out / TOTALS).read_text("utf-8"))
    except (OSError, ValueError) as error:
        check_room(out)
        tail = (out / "locust.log").read_text("utf-8")[-800:].strip()
        raise VestalError(f"the load test did not run ({error}); Locust said:\n{tail}") from None
    if not total["requests"]:
        raise VestalError(f"no request was answered; see {out / 'locust.log'}")
    return LoadResult(**total, report=report)
