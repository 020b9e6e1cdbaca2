"""Workers killed while they gather a batch: TorchServe never responds to those requests.

Each setting is a number of callers, a batch size and a client; every few seconds one of two READY
workers is killed. A single caller, and as many callers as a batch holds, never see a later response
while theirs is lost. `healthy` loads a server that loses nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

from benchmarks.client_load import AsyncLoad, Load, Row
from benchmarks.client_server import Torchserve, kill_a_worker
from vestal import AsyncClient
from vestal.client.flow import HTTPRequest
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
HEALTHY = {
    "answers take 3 of 5 s": (1, b"3", 5.0),
    "a queue of 4.8 of 8 s": (4, b"1.2", 8.0),
    "a queue of 4 of 5 s": (40, b"0.1", 5.0),
    "overloaded: a queue of 8 of 5 s": (80, b"0.1", 5.0),
}
"""Number of callers, seconds that the model needs for an input, and deadline in seconds."""
SHORT_SETTINGS = [Setting(1, 64, "Client"), Setting(4, 64, "AsyncClient")]


def batches(
    server: Torchserve, settings: Sequence[Setting], seconds: float, *, every: float
) -> tuple[dict[str, Any], list[Row]]:
    """Run every setting for `seconds`; print a line for each."""
    results, rows = [], []
    for setting in settings:
        found, some = one(server, setting, seconds, every=every)
        print(" ".join(f"{name}={value}" for name, value in found.items()), flush=True)
        results.append(found)
        rows += [replace(row, setting=str(setting)) for row in some]
    return {"failed": sum(found["failed"] for found in results), "settings": results}, rows


def one(
    server: Torchserve, setting: Setting, seconds: float, *, every: float
) -> tuple[dict[str, Any], list[Row]]:
    model, killed = f"echo{setting.batch}", 0
    with server.client() as client, counted_copies() as copies:
        client.wait_ready(model, timeout=60)
        load = Load(client, model, setting.callers, timeout=lambda: DEADLINE)
        if setting.client == "AsyncClient":
            addresses: dict[str, Any] = server.addresses()
            load = AsyncLoad(**vars(load), asynchronous=AsyncClient(**addresses))
        with load:
            end = time.monotonic() + seconds
            while time.monotonic() + every <= end:
                time.sleep(every)
                killed += kill_a_worker(client, model) is not None
        client.wait_ready(model, timeout=60)
    return result(load, str(setting), copies, killed=killed), load.rows


def healthy(server: Torchserve, seconds: float) -> tuple[dict[str, Any], list[Row]]:
    """Load one worker that loses nothing, so that every copy is extra load."""
    results, rows = [], []
    for name, (callers, body, deadline) in HEALTHY.items():
        for hedge in (False, True):
            with server.client(hedge=hedge) as client, counted_copies() as copies:
                load = Load(client, "steady", callers, body, timeout=partial(float, deadline))
                with load:
                    time.sleep(seconds)
                client.predict("steady", b"0", timeout=60)  # behind what is queued
            results.append(result(load, f"{name}, hedge={hedge}", copies))
            print(" ".join(f"{key}={value}" for key, value in results[-1].items()), flush=True)
            rows += [replace(row, setting=results[-1]["setting"]) for row in load.rows]
    return {"copies": sum(each["copies"] for each in results), "settings": results}, rows


@contextmanager
def counted_copies() -> Iterator[list[HTTPRequest]]:
    """Yield the copies of requests that have no response yet."""
    copies: list[HTTPRequest] = []
    send_copy = Attempts.copy

    def counted(attempts: Attempts) -> HTTPRequest | None:
        copy = send_copy(attempts)
        if copy is not None:
            copies.append(copy)
        return copy

    with patch.object(Attempts, "copy", counted):
        yield copies


def result(load: Load, setting: str, copies: list[HTTPRequest], **more: object) -> dict[str, Any]:
    summary = load.summary()
    return {
        "setting": setting,
        **more,
        "calls": summary["calls"],
        "failed": sum(summary["errors"].values()),
        "sent": sum(row.attempts for row in load.rows),
        "copies": len(copies),
        "p50_ms": summary["p50_ms"],
        "max_ms": summary["max_ms"],
    }
