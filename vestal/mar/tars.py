"""A .tar.gz is judged header by header with its inflation counted, then unpacked."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path

from vestal.mar.findings import Findings
from vestal.mar.names import judge_names, safe_name
from vestal.mar.zips import MAX_MEMBERS, RATIO, SMALL, Bomb, NoRoom

BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


class _Counted(io.RawIOBase):
    """A stream that gives so many bytes and no more."""

    def __init__(self, source: gzip.GzipFile, limit: int) -> None:
        self._source, self._left = source, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._source.read(size if size >= 0 else self._left + 1)
        self._left -= len(piece)
        if self._left < 0:
            raise Bomb
        return piece


def unpack(archive: Path, target: Path, room: int, found: Findings) -> list[str] | None:
    """Writes the files below `target` and gives their names; None where it is not safe.

    TorchServe drops the first folder of every name, so the names are without it.

    Raises:
        tarfile.TarError, OSError, zlib.error, EOFError: not a .tar.gz (`BROKEN`).
        NoRoom: it declares more than `room` bytes.
    """
    limit = max(SMALL, RATIO * archive.stat().st_size)
    before = len(found.items)
    try:
        with gzip.open(archive) as stream:
            needed = _judge(_Counted(stream, limit), limit, found)
        if len(found.items) > before:
            return None
        if needed > room:
            raise NoRoom(needed)
        with gzip.open(archive) as stream:
            return _extract(_Counted(stream, limit), target)
    except Bomb:
        _bomb(f"it unpacks to more than {limit:,} bytes, {RATIO} times its size", found)
        return None


def _judge(stream: _Counted, limit: int, found: Findings) -> int:
    """The bytes that the files declare."""
    names, total = [], 0
    with tarfile.open(fileobj=stream, mode="r|") as content:
        for member in content:
            names.append(_served_name(member) + ("/" if member.isdir() else ""))
            total += member.size
            if member.issym() or member.islnk():
                found.error(
                    "link",
                    member.name,
                    f"a link to {member.linkname}: TorchServe writes an empty file in its place",
                    "pack the file itself (tar --dereference)",
                )
            elif not (member.isreg() or member.isdir()):
                found.error(
                    "special-file", member.name, "neither a file nor a folder", "pack it without"
                )
            if total > limit or len(names) > MAX_MEMBERS:
                _bomb(f"{len(names):,} members declare {total:,} bytes, or more", found)
                break
    judge_names(names, found)
    return total


def _extract(stream: _Counted, target: Path) -> list[str]:
    names = []
    with tarfile.open(fileobj=stream, mode="r|") as content:
        for member in content:
            source = content.extractfile(member) if member.isreg() else None
            name = safe_name(_served_name(member))
            if source is None or not name:
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            names.append(name)
    return names


def _served_name(member: tarfile.TarInfo) -> str:
    # An absolute or an escaping name is judged as it stands.
    if safe_name(member.name) is None:
        return member.name
    return member.name.partition("/")[2] if "/" in member.name else member.name


def _bomb(what: str, found: Findings) -> None:
    found.error("zip-bomb", "", what, "do not serve it; ask who made it")
