"""`import vestal` costs no more than what a caller's service imports anyway."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

ROUNDS = 15


def cost(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


@pytest.mark.parametrize(
    ("statement", "most"), [("import vestal", 1.2), ("from vestal import Client", 1.5)]
)
def test_it_costs_little_beside_requests(statement: str, most: float) -> None:
    cost(statement), cost("import requests")  # from the disk
    # Side by side; the best of each, since this machine has other work too.
    pairs = [(cost(statement), cost("import requests"), cost("pass")) for _ in range(ROUNDS)]
    ours, theirs, nothing = (min(column) for column in zip(*pairs, strict=True))
    ratio = (ours - nothing) / (theirs - nothing)
    print(f"{statement}: {1000 * (ours - nothing):.0f} ms, {ratio:.2f} times requests")
    assert ratio <= most


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vestal import AsyncClient, Client\n"
        "heavy = {'asyncio', 'httpx', 'numpy', 'opentelemetry', 'pandas', 'PIL', 'pydantic',"
        " 'prometheus_client', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
