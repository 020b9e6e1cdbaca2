"""Keep the modules of several archives in one process apart.

In a worker, the archive's folder is the working directory and on sys.path, and all modules in it
belong to the archive. Here this is so while the archive loads or predicts. Vestal's pytest fixture
`archive` keeps several archives loaded, and `vestal run --watch` and `vestal pack` load one after
another.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

HANDLERS = "vestal_handlers"
# The working directory, sys.path and sys.modules are shared by all threads.
_LOCK = threading.RLock()


class ModuleScope:
    """Working directory, import path and modules of one archive.

    Args:
        folder: the unpacked archive, an absolute path.
        handler: `handler` in its manifest.
    """

    _current: ModuleScope | None = None  # the one whose modules are in sys.modules

    def __init__(self, folder: Path, handler: str) -> None:
        self._folder = folder
        self._path = [str(folder)]
        place, colon, _ = handler.partition(":")
        if colon and "/" in place:  # TorchServe then adds the handler's folder
            self._path.append(str(folder / place.rpartition("/")[0]))
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Make the archive's modules importable, also for imports in functions."""
        with _LOCK, contextlib.chdir(self._folder):
            if ModuleScope._current is not self:
                if ModuleScope._current is not None:
                    ModuleScope._current._leave()
                sys.modules.update(self._modules)
                # It stays on the path, because threads of the handler may import modules, too.
                sys.path[:0] = self._path
                ModuleScope._current = self
            yield

    def close(self) -> None:
        """Remove its modules, so that the next archive imports its own."""
        with _LOCK:
            if ModuleScope._current is self:
                self._leave()
                ModuleScope._current = None
            forget(_below(self._folder))

    def _leave(self) -> None:
        # All archives share the first `vestal_handlers` that was imported, because it is large.
        self._modules = {
            name: module
            for name, module in _below(self._folder).items()
            if name.partition(".")[0] != HANDLERS
        }
        forget(self._modules)
        sys.path[:] = [place for place in sys.path if place not in self._path]


def forget_handlers() -> None:
    """Remove `vestal_handlers`, so that it is imported again."""
    forget([name for name in sys.modules if name.partition(".")[0] == HANDLERS])


def forget(names: Iterable[str]) -> None:
    for name in list(names):
        sys.modules.pop(name, None)


def _below(folder: Path) -> dict[str, ModuleType]:
    """Return the imported modules that are in a folder."""
    found = {}
    # There are thousands of modules, and Path.is_relative_to() takes 50 times as long.
    prefix = f"{folder}{os.sep}"
    for name, module in list(sys.modules.items()):
        # A package without an __init__.py has only a path.
        names: dict[str, Any] = getattr(module, "__dict__", {})
        places = [names.get("__file__"), *(names.get("__path__") or ())]
        if any(isinstance(p, str) and _as_folder(p).startswith(prefix) for p in places):
            found[name] = module
    return found


def _as_folder(place: str) -> str:
    return os.path.normpath(place) + os.sep
