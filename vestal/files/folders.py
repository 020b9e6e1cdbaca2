"""Files below a folder that a user gives, without those that desktops and tools hide in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Not hidden by a dot: what unpacked macOS archives, Python and Windows leave in folders.
_HIDDEN = ("__macosx", "__pycache__", "thumbs.db", "desktop.ini")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is not meant as an input or as a class."""
    return name.startswith(".") or name.lower() in _HIDDEN


def folders_in(folder: Path) -> list[Path]:
    """Return the folders right in a folder, sorted, without hidden ones."""
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name)
    )


def files_in(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, without hidden ones and those in hidden folders.

    Links to folders are followed. A link to nothing counts as a file: reading it says so.
    """
    return sorted(_files(folder, frozenset()))


def _files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return  # a link to a folder that it is in
    for child in folder.iterdir():
        if is_hidden(child.name):
            continue
        if child.is_dir():
            yield from _files(child, above | {real})
        else:
            yield child
