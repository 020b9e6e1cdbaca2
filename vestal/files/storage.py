"""Atomic writes: a file or folder appears complete, or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vestal.files.disk_errors import write_test_block
from vestal.files.locks import FileLock

_NEW_SECONDS = 60.0
"""A younger folder may not be locked yet by the process that created it."""


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Create a temporary folder, whose content can be renamed to a place in `parent`.

    Folders with the same prefix that killed processes have left are removed.
    """
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name, _try_lock(Path(name)):
        for folder in parent.glob(f"{prefix}*"):
            _remove_unlocked(folder)
        yield Path(name)


@contextmanager
def _try_lock(folder: Path) -> Iterator[bool]:
    """Lock a folder; False if another process holds it, or if there are no locks here."""
    with contextlib.ExitStack() as stack:
        locked = False
        with contextlib.suppress(ImportError, OSError):
            lock = FileLock(folder)
            stack.callback(lock.release)
            locked = lock.acquire()
        yield locked


def _remove_unlocked(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process has removed it
        if time.time() - folder.stat().st_mtime < _NEW_SECONDS:
            return
        with _try_lock(folder) as locked:
            if locked:
                shutil.rmtree(folder)


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a path to write to; it replaces `file` at the end, unless an error is raised."""
    with scratch_folder(file.parent, ".saving-") as scratch:
        # torch stores the file's name in some formats.
        new = scratch / file.name
        yield new
        if not new.exists():  # the library only logged its error
            write_test_block(file.parent)
        new.replace(file)


def write_text(file: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with atomic_write(file) as new:
        new.write_text(text, "utf-8")
