"""Unpack a .tar.gz after checking its headers, counting every byte."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from pathlib import Path

from vestal.mar.findings import Finding
from vestal.mar.names import check_names, safe_name
from vestal.mar.zips import MAX_MEMBERS, RATIO, SMALL, Bomb, NoRoom, UnsafeArchive

BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


class _LimitedReader(io.RawIOBase):
    """A stream that raises Bomb after `limit` bytes."""

    def __init__(self, source: gzip.GzipFile, limit: int) -> None:
        self._source, self._left = source, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size if size >= 0 else self._left + 1)
        self._left -= len(chunk)
        if self._left < 0:
            raise Bomb
        return chunk


def unpack(archive: Path, target: Path, room: int) -> list[str]:
    """Write the files into the folder `target` and return their names.

    The names omit their first folder, as TorchServe does.

    Raises:
        UnsafeArchive: a member is unsafe.
        tarfile.TarError, OSError, zlib.error, EOFError: not a .tar.gz (`BROKEN`).
        NoRoom: it declares more than `room` bytes.
    """
    limit = max(SMALL, RATIO * archive.stat().st_size)
    try:
        with gzip.open(archive) as stream:
            needed = _check(_LimitedReader(stream, limit), limit)
        if needed > room:
            raise NoRoom(needed)
        with gzip.open(archive) as stream:
            return _extract(_LimitedReader(stream, limit), target)
    except Bomb:
        what = f"it unpacks to more than {limit:,} bytes, {RATIO} times its size"
        raise UnsafeArchive(_bomb(what)) from None


def _check(stream: _LimitedReader, limit: int) -> int:
    """The size of the files, in bytes; raises UnsafeArchive."""
    findings, names, total = [], [], 0
    with tarfile.open(fileobj=stream, mode="r|") as content:
        for member in content:
            names.append(_served_name(member) + ("/" if member.isdir() else ""))
            total += member.size
            if member.issym() or member.islnk():
                meaning = f"a link to {member.linkname}: TorchServe writes an empty file instead"
                todo = "pack the file itself (tar --dereference)"
                findings.append(Finding.error("link", member.name, meaning, todo))
            elif not (member.isreg() or member.isdir()):
                meaning, todo = "neither a file nor a folder", "pack the archive without it"
                findings.append(Finding.error("special-file", member.name, meaning, todo))
            if total > limit or len(names) > MAX_MEMBERS:
                findings.append(_bomb(f"{len(names):,} members declare {total:,} bytes or more"))
                break
    findings += check_names(names)
    if findings:
        raise UnsafeArchive(*findings)
    return total


def _extract(stream: _LimitedReader, target: Path) -> list[str]:
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
    # An absolute name, or one that leads out of the folder, is reported unchanged.
    if safe_name(member.name) is None:
        return member.name
    return member.name.partition("/")[2] if "/" in member.name else member.name


def _bomb(what: str) -> Finding:
    return Finding.error("zip-bomb", "", what, "do not serve this archive; ask its author")
