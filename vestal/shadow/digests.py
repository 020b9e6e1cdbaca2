"""Read the digests that workers have written; see `vestal_handlers.digests`."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from vestal_handlers.digests import SUFFIX, name_of, version_folder

_OFFSET_BITS = 40
_CACHED_FILES = 16
"""Files of at most 4 MB that are kept in memory while pairs are compared."""


_COPY = b'"shadow": true'
"""Occurs in no other digest: quotes in a body are escaped."""
_KINDS: dict[str, type] = {"id": str, "shadow": bool, "with": str, "status": int}


class Digest(NamedTuple):
    """One response.

    Attributes:
        shadow: whether it is the response to a copy.
        compared_with: the version of the shadow; "" if unknown.
        at: when it was made, in seconds since 1970.
        seconds: time of its batch in the handler.
        body: the JSON text; None if only its hash is known.
        sha256: the hash of the body; "" if the body is known.
    """

    id: str
    shadow: bool
    compared_with: str
    at: float
    seconds: float
    status: int
    body: str | None
    sha256: str


def parse_digest(line: bytes) -> Digest | None:
    """Parse a line; None if it is damaged, such as the last one of a full disk."""
    try:
        found: Any = json.loads(line)
        kinds = {**_KINDS, **{key: str for key in ("body", "sha256") if key in found}}
        if not line.endswith(b"\n") or not all(isinstance(found[k], t) for k, t in kinds.items()):
            return None
        digest = Digest(
            id=found["id"],
            shadow=found["shadow"],
            compared_with=found["with"],
            at=float(found["at"]),
            seconds=float(found["seconds"]),
            status=found["status"],
            body=found.get("body"),
            sha256=found.get("sha256", ""),
        )
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
    return digest if math.isfinite(digest.at) and math.isfinite(digest.seconds) else None


@dataclass
class Side:
    """The digests of one side, in arrays: 24 bytes for each.

    Attributes:
        keys: hashes of the request IDs.
        places: file and offset of each line, see `DigestFiles.read`.
        times: when the responses were made.
        without_id: digests without a request ID, which are not in the arrays.
    """

    keys: array[int] = field(default_factory=lambda: array("Q"))
    places: array[int] = field(default_factory=lambda: array("Q"))
    times: array[float] = field(default_factory=lambda: array("d"))
    without_id: int = 0

    def add(self, digest: Digest, place: int) -> None:
        """Add a digest."""
        if not digest.id:
            self.without_id += 1
            return
        raw = digest.id.encode("utf-8", "surrogatepass")
        self.keys.append(int.from_bytes(blake2b(raw, digest_size=8).digest()))
        self.places.append(place)
        self.times.append(digest.at)


class DigestFiles:
    """The files of a model's digests.

    Attributes:
        versions: those that have digests.
        damaged: number of lines that `scan` could not read.
    """

    def __init__(self, root: Path, model: str) -> None:
        folder = version_folder(root, model, "any").parent
        found = sorted(folder.glob(f"*/*{SUFFIX}"), key=_modified)
        self._files = [(file, name_of(file.parent)) for file in found]
        self.versions = sorted({version for _, version in self._files})
        self.damaged = 0
        self._content = lru_cache(_CACHED_FILES)(self._read_file)

    def last_shadow(self) -> str | None:
        """Return the version whose responses to copies are the newest; None without any."""
        for index in reversed(range(len(self._files))):
            if _COPY in self._read_file(index):
                return self._files[index][1]
        return None

    def scan(self, shadow: str) -> tuple[Side, Side]:
        """Find the digests of the live side and of a shadow version."""
        live, copies = Side(), Side()
        self.damaged = 0
        for index, (_, version) in enumerate(self._files):
            for offset, digest in self._lines(index):
                place = index << _OFFSET_BITS | offset
                if digest is None:
                    self.damaged += 1
                elif digest.shadow:
                    if version == shadow:
                        copies.add(digest, place)
                elif digest.compared_with in (shadow, ""):
                    live.add(digest, place)
        return live, copies

    def read(self, place: int) -> Digest | None:
        """Read the digest at a place; None if its file was removed meanwhile."""
        offset = place & ((1 << _OFFSET_BITS) - 1)
        content = self._content(place >> _OFFSET_BITS)
        return parse_digest(content[offset : content.find(b"\n", offset) + 1])

    def version_at(self, place: int) -> str:
        """Return the version that wrote the digest at a place."""
        return self._files[place >> _OFFSET_BITS][1]

    def _lines(self, index: int) -> Iterator[tuple[int, Digest | None]]:
        offset = 0
        try:
            with self._files[index][0].open("rb") as stream:
                for line in stream:
                    yield offset, parse_digest(line)
                    offset += len(line)
        except FileNotFoundError:  # a worker has removed it to make space
            return

    def _read_file(self, index: int) -> bytes:
        try:
            return self._files[index][0].read_bytes()
        except FileNotFoundError:
            return b""


def _modified(file: Path) -> tuple[float, Path]:
    try:
        return file.stat().st_mtime, file
    except FileNotFoundError:
        return 0.0, file
