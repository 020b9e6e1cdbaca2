"""`vestal_handlers` exports what handlers need, and imports each name at its first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vestal_handlers

WITHOUT_TORCH = """
import sys

for package in ("torch", "torchvision", "ts", "PIL"):
    sys.modules[package] = None  # importing it raises ModuleNotFoundError
from vestal_handlers import InputError, Instance, Media, Options, OptionError
from vestal_handlers.requests.schema import validate

assert Media(b"", "image/png").content_type == "image/png"
try:
    from vestal_handlers import BatchHandler
except ModuleNotFoundError as error:
    print(error.name)
"""
LAZY = """
import sys

import vestal_handlers

assert not {"torch", "ts", "vestal_handlers.base"} & sys.modules.keys()
from vestal_handlers import BatchHandler, InputError, Instance, Media, Options

assert BatchHandler is sys.modules["vestal_handlers.base"].BatchHandler
assert "torchvision" not in sys.modules
"""


def run(program):
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_requests_and_errors_can_be_imported_without_torch():
    done = run(WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch"


def test_names_are_imported_at_their_first_use():
    done = run(LAZY)
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_imported():
    for name in vestal_handlers.__all__:
        assert getattr(vestal_handlers, name).__name__ == name


def test_the_docstring_lists_every_module_and_package():
    for path in Path(vestal_handlers.__file__).parent.iterdir():
        name = f"{path.name}/" if path.is_dir() else path.stem
        if not name.startswith("__"):
            assert name in vestal_handlers.__doc__, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'vestal_handlers' has no attribute 'Nothing'"):
        _ = vestal_handlers.Nothing
