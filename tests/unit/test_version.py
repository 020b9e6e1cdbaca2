"""The version has one source: the metadata of the installed package, from pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vestal

pytestmark = pytest.mark.heavy

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_package_has_the_version_of_pyproject() -> None:
    assert vestal.__version__ == tomllib.loads(PYPROJECT.read_text())["project"]["version"]
    assert "__version__" in dir(vestal)


def test_the_command_prints_the_version() -> None:
    command = [sys.executable, "-m", "vestal", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{vestal.__version__}\n", "")


def test_the_top_level_exports_the_type_of_a_timeout() -> None:
    from vestal import Timeout
    from vestal.client.deadline import Timeout as Original

    assert Timeout is Original
