"""Load the Python files of a model folder or of an unpacked archive.

Each folder becomes a package with its own name, so that the `transforms.py` of two models in one
process do not conflict, and files of a folder can use `from .model import Net`.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any


def load_transform(folder: Path, default: Any) -> Any:
    """`transform` of the folder's transforms.py; the default if there is no such file."""
    exists = (folder / "transforms.py").is_file()
    return load_module(folder, "transforms").transform if exists else default


def load_module(folder: Path, name: str, package: str | None = None) -> ModuleType:
    """Import `<folder>/<name>.py`.

    Args:
        package: the name of the folder's package; None: a unique one.

    Raises:
        FileNotFoundError: there is no such file. Errors of the file itself are not caught.
    """
    folder = folder.resolve()
    if not (folder / f"{name}.py").is_file():
        raise FileNotFoundError(f"no {name}.py in {folder}")
    package = package or f"vestal_model_{zlib.crc32(str(folder).encode()):08x}"
    if package not in sys.modules:
        spec = ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[package] = module_from_spec(spec)
    return importlib.import_module(f"{package}.{name}")
