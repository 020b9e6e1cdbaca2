"""What C libraries write to stderr stays out of a command's terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.heavy

PROGRAM = """
import os, sys
from vestal.cli.native import native_messages_hidden
from vestal.cli.output import err

def native(text):  # as libtiff and libjpeg do
    os.write(2, text.encode() + b"\\n")

native("before")
with native_messages_hidden():
    native("hidden")
    print("python", file=sys.stderr)
    err.print("console")
native("after")
err.print("last")
try:
    with native_messages_hidden():
        raise ValueError("through")
except ValueError as error:
    native(str(error))
"""


def test_only_what_python_writes_is_shown():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    shown = ["before", "python", "console", "after", "last", "through"]
    assert done.stderr.split() == shown
