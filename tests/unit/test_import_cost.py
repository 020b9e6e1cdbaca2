"""`import vestal` costs no more than what a caller's service imports anyway."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = 15


def cost(statement: str, bytecode: Path) -> float:
    """Seconds of CPU, with bytecode at hand for both, as pip leaves it."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.parametrize(
    ("statement", "most"), [("import vestal", 1.2), ("from vestal import Client", 1.3)]
)
def test_it_costs_little_beside_requests(statement: str, most: float, tmp_path: Path) -> None:
    all_three = (statement, "import requests", "pass")
    for each in all_three:
        cost(each, tmp_path)  # which writes the bytecode
    pairs: list[list[float]] = []
    ratio = math.inf
    # Side by side, the best of each; further rounds where other work slowed all of them down.
    while ratio > most and len(pairs) < 4 * ROUNDS:
        pairs += [[cost(each, tmp_path) for each in all_three] for _ in range(ROUNDS)]
        ours, theirs, nothing = (min(column) for column in zip(*pairs, strict=True))
        ratio = (ours - nothing) / (theirs - nothing)
        print(f"{statement}: {1000 * (ours - nothing):.0f} ms, {ratio:.2f} times requests")
    assert ratio <= most


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vestal import AsyncClient, Client\n"
        "heavy = {'asyncio', 'httpx', 'numpy', 'opentelemetry', 'pandas', 'PIL', 'pydantic',"
        " 'prometheus_client', 'torch', 'dataclasses', 'concurrent.futures', 'vestal.project'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_process_that_holds_an_archive_has_imported_no_handlers_before_it():
    """Else the project's own vestal_handlers would run in place of the copy in the archive."""
    modules = (
        *("vestal.inprocess.child", "vestal.inprocess.frontend"),
        *("vestal.inprocess", "vestal.mar.sample"),
    )
    imports = "; ".join(f"import {module}" for module in modules)
    program = f"import sys; {imports}; print('vestal_handlers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
