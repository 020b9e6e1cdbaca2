"""`model_store/index.json`: the archives in the store and how each was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.files.locks import FileLock
from vestal.files.storage import write_text

INDEX = "index.json"
Index = dict[str, dict[str, Any]]


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_index(store: Path) -> Index:
    """The entries by archive file name; empty if there is no index yet.

    Raises:
        VestalError: the file is not an index.
    """
    index = store / INDEX
    if not index.is_file():
        return {}
    try:
        entries = json.loads(index.read_text("utf-8"))
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
            raise ValueError("expected an object for every archive")
    except (OSError, ValueError, RecursionError) as error:
        raise VestalError(
            f"{index} cannot be read ({error}). Fix it, or move it away and pack the archives again"
        ) from None
    return entries


@contextmanager
def update_index(store: Path) -> Iterator[Index]:
    """The entries, locked against other processes; changes are written at the end, atomically.

    Raises:
        VestalError: the index cannot be read.
    """
    with _locked(store):
        index = read_index(store)
        before = deepcopy(index)
        yield index
        if index != before:
            write_text(store / INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")


def add_entry(index: Index, archive: str, **fields: Any) -> None:
    """Add an archive; an entry with the same `sha256` stays as it is."""
    if index.get(archive, {}).get("sha256") != fields["sha256"]:
        index[archive] = {**fields, "packed": datetime.now(UTC).isoformat(timespec="seconds")}


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Lock the folder itself, so that no lock file remains."""
    lock = FileLock(store)
    try:
        lock.acquire(wait=True)
        yield
    finally:
        lock.release()
