"""Commands set how idle OpenMP threads wait."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.heavy

COMMAND = """
import os, sys
from vestal import cli

sys.argv = ["vestal", "--help"]
try:
    cli.main()
except SystemExit:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    print({name: os.environ[name] for name in names if name in os.environ})
    print("torch" in sys.modules)
"""


NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "100"}, {"GOMP_SPINCOUNT": "100"}),
    ],
)
def test_a_command_sets_the_wait_policy_before_torch_is_imported(given, expected):
    own = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**own, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-2:] == [str(expected), "False"]
