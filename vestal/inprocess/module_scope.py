"""What a worker's process is to its one archive, for several archives in one process.

There the archive's folder is the working directory and on sys.path for the whole life of a worker,
and every module of that folder is the archive's own. Here that is so while it loads or answers.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

HANDLERS = "vestal_handlers"
# The working directory, sys.path and sys.modules are everybody's.
_LOCK = threading.RLock()


class ModuleScope:
    """Of one archive, unpacked in `folder`, an absolute path, with its manifest's `handler`."""

    _current: ModuleScope | None = None  # whose modules stand in sys.modules

    def __init__(self, folder: Path, handler: str) -> None:
        self._folder = folder
        self._path = [str(folder)]
        place, colon, _ = handler.partition(":")
        if colon and "/" in place:  # then TorchServe adds the handler's own folder
            self._path.append(str(folder / place.rpartition("/")[0]))
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """In here a module of the folder is found, also one that is imported late."""
        with _LOCK, contextlib.chdir(self._folder):
            if ModuleScope._current is not self:
                if ModuleScope._current is not None:
                    ModuleScope._current._leave()
                sys.modules.update(self._modules)
                # It stays there: a thread of the handler's may import, too.
                sys.path[:0] = self._path
                ModuleScope._current = self
            yield

    def close(self) -> None:
        """Its modules are forgotten: the next archive, or an edited one, gets its own."""
        with _LOCK:
            if ModuleScope._current is self:
                self._leave()
                ModuleScope._current = None
            forget(_below(self._folder))

    def _leave(self) -> None:
        # `vestal_handlers` is large and one for all, from where it was imported first.
        self._modules = {
            name: module
            for name, module in _below(self._folder).items()
            if name.partition(".")[0] != HANDLERS
        }
        forget(self._modules)
        sys.path[:] = [place for place in sys.path if place not in self._path]


def forget_handlers() -> None:
    """Lets `vestal_handlers` be imported anew, as it is now."""
    forget([name for name in sys.modules if name.partition(".")[0] == HANDLERS])


def forget(names: Iterable[str]) -> None:
    for name in list(names):
        sys.modules.pop(name, None)


def _below(folder: Path) -> dict[str, ModuleType]:
    """The imported modules that come from a folder."""
    found = {}
    for name, module in list(sys.modules.items()):
        # A package without an __init__.py has no file, and a path.
        said: dict[str, Any] = getattr(module, "__dict__", {})
        places = [said.get("__file__"), *(said.get("__path__") or ())]
        if any(isinstance(place, str) and Path(place).is_relative_to(folder) for place in places):
            found[name] = module
    return found
