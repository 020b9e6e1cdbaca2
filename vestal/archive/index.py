"""`model_store/index.json`: what stands in the store and where it came from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

INDEX = "index.json"


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_index(store: Path) -> dict[str, dict[str, Any]]:
    """The entries by archive file name; empty where there is no index yet."""
    index = store / INDEX
    found: dict[str, dict[str, Any]] = {}
    if index.is_file():
        found = json.loads(index.read_text("utf-8"))
    return found


def record(store: Path, *, archive: Path, **facts: Any) -> None:
    """Enters an archive, or replaces its entry; atomic, and safe beside other packs.

    An entry that already says the same keeps its time.
    """
    with _locked(store):
        index = read_index(store)
        before = index.get(archive.name, {})
        if {**before, **facts} == before:
            return
        index[archive.name] = {**facts, "packed": datetime.now(UTC).isoformat(timespec="seconds")}
        fresh = store / f".{INDEX}.new"
        fresh.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", "utf-8")
        fresh.replace(store / INDEX)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """A lock on the folder itself, so that no lock file is left."""
    handle = os.open(store, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
