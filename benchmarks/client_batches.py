"""Workers killed while they gather a batch: TorchServe never answers what they have gathered.

Each setting is a number of callers, a batch size and a client; every few seconds a worker of two
that is READY is killed. A lone caller, and as many callers as a batch holds, never see a later
answer while theirs is lost.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

from benchmarks.client_load import AsyncLoad, Load, Row
from benchmarks.client_server import Torchserve, kill_a_worker
from vestal import AsyncClient
from vestal.client.retry import Attempts

MODELS: dict[str, dict[str, Any]] = {
    "echo64": {"workers": 2, "batch": 64, "delay": 400},
    "echo8": {"workers": 2, "batch": 8},
}
DEADLINE = 30.0


class Setting(NamedTuple):
    callers: int
    batch: int
    client: str

    def __str__(self) -> str:
        return f"{self.callers} callers, batch {self.batch}, {self.client}"


SETTINGS = [
    Setting(callers, batch, client)
    for batch, client in itertools.product((8, 64), ("Client", "AsyncClient"))
    for callers in sorted({1, 4, 16, batch})
]
SHORT_SETTINGS = [Setting(1, 64, "Client"), Setting(4, 64, "AsyncClient")]


def batches(
    server: Torchserve, settings: Sequence[Setting], seconds: float, *, every: float
) -> tuple[dict[str, Any], list[Row]]:
    """Runs every setting for so many seconds; prints a line for each."""
    results, rows = [], []
    for setting in settings:
        result, some = one(server, setting, seconds, every=every)
        print(" ".join(f"{name}={value}" for name, value in result.items()), flush=True)
        results.append(result)
        rows += [replace(row, setting=str(setting)) for row in some]
    return {"failed": sum(result["failed"] for result in results), "settings": results}, rows


def one(
    server: Torchserve, setting: Setting, seconds: float, *, every: float, hedge: bool = True
) -> tuple[dict[str, Any], list[Row]]:
    """`copies`: further copies that were sent beside a request that was still waited for."""
    model = f"echo{setting.batch}"
    copies = killed = 0
    send_copy = Attempts.copy

    def counted(attempts: Attempts) -> Any:
        nonlocal copies
        copy = send_copy(attempts)
        copies += copy is not None
        return copy

    addresses: dict[str, Any] = server.addresses()
    with server.client(hedge=hedge) as client, patch.object(Attempts, "copy", counted):
        client.wait_ready(model, timeout=60)
        load = Load(client, model, setting.callers, timeout=lambda: DEADLINE)
        if setting.client == "AsyncClient":
            asynchronous = AsyncClient(**addresses, hedge=hedge)
            load = AsyncLoad(**vars(load), asynchronous=asynchronous)
        with load:
            end = time.monotonic() + seconds
            while time.monotonic() + every <= end:
                time.sleep(every)
                killed += kill_a_worker(client, model) is not None
        client.wait_ready(model, timeout=60)
    summary = load.summary()
    return {
        "setting": str(setting),
        "killed": killed,
        "calls": summary["calls"],
        "failed": sum(summary["errors"].values()),
        "sent": sum(row.attempts for row in load.rows),
        "copies": copies,
        "p50_ms": summary["p50_ms"],
        "max_ms": summary["max_ms"],
    }, load.rows
