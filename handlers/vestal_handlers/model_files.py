"""Loads the Python files of a model folder or of an unpacked archive.

Each folder becomes a package of a name of its own, so that the `transforms.py` of two models in
one process never meet, and files of a folder may say `from .model import Net`.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType


def load_module(folder: Path, name: str, package: str | None = None) -> ModuleType:
    """Imports `<folder>/<name>.py`.

    Args:
        package: the name of the folder's package; None: one that no other folder has.

    Raises:
        FileNotFoundError: there is no such file. What the file itself raises comes through.
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
