"""Files and folders in a folder, without hidden ones and those that desktops and tools create."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Created by macOS archives, Python and Windows.
_CREATED_BY_TOOLS = ("__macosx", "__pycache__", "thumbs.db", "desktop.ini")


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is neither an input nor a class."""
    return name.startswith(".") or name.lower() in _CREATED_BY_TOOLS


def folders_in(folder: Path) -> list[Path]:
    """Return the direct subfolders, sorted, without hidden ones."""
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not is_hidden(child.name)
    )


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder at any depth, sorted, without hidden files and folders.

    Links to folders are followed. A broken link is returned as a file.
    """
    return sorted(_files(folder, frozenset()))


def _files(folder: Path, parents: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in parents:
        return  # a link to one of its own parents
    for child in folder.iterdir():
        if is_hidden(child.name):
            continue
        if child.is_dir():
            yield from _files(child, parents | {real})
        else:
            yield child
