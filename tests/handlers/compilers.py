"""Whether Inductor can compile here."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest


def require_compiler() -> None:
    """Skip the test without the programs that Inductor needs; a fresh Debian lacks them."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if shutil.which("g++") is None or not header.is_file():
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("g++ or Python.h is not installed (apt-get install g++ python3-dev)")
