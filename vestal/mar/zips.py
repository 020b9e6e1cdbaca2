"""Unpack a zip after checking its directory, counting every byte.

TorchServe reads a .mar as a stream, local header by local header, and ignores the central
directory; most tools, Vestal included, read the directory. So the two must agree.
"""

from __future__ import annotations

import copy
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from vestal.mar.findings import Finding
from vestal.mar.names import check_names, safe_name

# What zipfile raises for bytes that are not a zip, or a damaged one.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)
RATIO = 200  # weights and sources stay far below it
SMALL = 1 << 20  # bytes; below, any ratio is accepted: a small file of zeros shrinks a lot
MAX_MEMBERS = 100_000
ENCRYPTED = 0x1
_DESCRIPTOR = 0x8
_CHUNK = 1 << 20
_LOCAL = struct.Struct("<4s5H3L2H")


class NoRoom(Exception):
    """The disk has less than `needed` bytes."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class Bomb(Exception):
    """A member has more bytes than it declares."""


class UnsafeArchive(Exception):
    """The archive is not unpacked; `findings` say why."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(*findings)
        self.findings = findings


def unpack(archive: Path, target: Path, room: int) -> list[str]:
    """Write the files into the folder `target` and return their names.

    Raises:
        UnsafeArchive: its directory or a member is unsafe.
        zipfile.BadZipFile, zlib.error, EOFError, ...: not a zip (`BROKEN`).
        NoRoom: it declares more than `room` bytes.
    """
    with archive.open("rb") as stream, zipfile.ZipFile(stream) as content:
        members = content.infolist()
        findings = [
            *check_directory(members, archive.stat().st_size),
            *_check_headers(stream, content),
        ]
        if findings:
            raise UnsafeArchive(*findings)
        needed = sum(member.file_size for member in members)
        if needed > room:
            raise NoRoom(needed)
        return [_extract(content, member, target) for member in members if not member.is_dir()]


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    name = safe_name(member.filename) or ""
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as sink:
            sink.writelines(read_chunks(content, member))
    except BROKEN as error:
        damaged = f"its content does not match the zip's directory ({error})"
        todo = "copy or pack the archive again"
        raise UnsafeArchive(Finding.error("damaged", name, damaged, todo)) from None
    except Bomb:
        size = f"it unpacks to more than the {member.file_size:,} bytes that it declares"
        raise UnsafeArchive(_bomb(name, size)) from None
    return name


def check_directory(members: Sequence[zipfile.ZipInfo], size: int) -> Iterator[Finding]:
    """Check names, links, compression and sizes; `size` is that of the whole zip, in bytes."""
    # Python cuts a name at its first NUL, other programs do not.
    yield from check_names(member.orig_filename for member in members)
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            yield Finding.error(
                "link",
                member.filename,
                "a symbolic link: TorchServe writes a text file that contains the link's target",
                "pack the file itself",
            )
        if member.flag_bits & ENCRYPTED:
            yield _unsupported(member, "the member is encrypted")
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield _unsupported(member, f"it is compressed by method {member.compress_type}")
        yield from _check_sizes(member.filename, member.file_size, member.compress_size)
    yield from _check_sizes("", sum(member.file_size for member in members), size)
    if len(members) > MAX_MEMBERS:
        yield Finding.error("zip-bomb", "", f"{len(members):,} members", "pack fewer files")


def _check_sizes(where: str, unpacked: int, packed: int) -> Iterator[Finding]:
    if unpacked > SMALL and unpacked > RATIO * packed:
        size = f"{packed:,} packed bytes declare {unpacked:,} unpacked ones, more than {RATIO}"
        yield _bomb(
            where, f"{size} times as many", "; if these are weights of zeros, pack them stored"
        )


def read_chunks(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Read a member in chunks.

    Raises:
        Bomb: at the first byte more than it declares.
        zipfile.BadZipFile: it is shorter than it declares, or its checksum differs.
    """
    # zipfile stops at the declared size without an error, so this requests one byte more and
    # compares the checksum itself.
    probe: Any = copy.copy(member)
    probe.file_size, probe.CRC = member.file_size + 1, None
    count = checksum = 0
    with content.open(probe) as stream:
        while chunk := stream.read(_CHUNK):
            count += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            if count > member.file_size:
                raise Bomb(member.filename)
            yield chunk
    if count < member.file_size:
        raise zipfile.BadZipFile(f"{count:,} bytes of {member.file_size:,}")
    if checksum != member.CRC:
        raise zipfile.BadZipFile("its checksum differs")


def _check_headers(stream: IO[bytes], content: zipfile.ZipFile) -> Iterator[Finding]:
    """The local headers, in the order of the file, must match the directory without gaps."""
    position = 0
    end = stream.seek(0, 2)
    for member in sorted(content.infolist(), key=lambda member: member.header_offset):
        if not 0 <= member.header_offset < end:
            raise zipfile.BadZipFile(f"{member.filename!r} begins outside of the file")
        stream.seek(member.header_offset)
        head = stream.read(_LOCAL.size)
        if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile(f"{member.filename!r} has no local header")
        _, _, flags, method, _, _, _, packed, size, name_length, extra = _LOCAL.unpack(head)
        name = stream.read(name_length)
        expected = member.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", "replace")
        # With a descriptor behind the data, and in zip64, the header does not contain the sizes.
        open_sizes = flags & _DESCRIPTOR or 0xFFFFFFFF in (packed, size)
        same_sizes = open_sizes or (packed, size) == (member.compress_size, member.file_size)
        if name != expected or method != member.compress_type or not same_sizes:
            yield _hidden(member.filename, "its local header differs from the zip's directory")
        elif member.header_offset != position:
            gap = f"bytes {position:,} to {member.header_offset:,}"
            yield _hidden(member.filename, f"{gap} belong to no member, or to two")
        if method == zipfile.ZIP_STORED and flags & _DESCRIPTOR:
            yield _unsupported(member, "it is stored, with its size behind the data")
        position = member.header_offset + _LOCAL.size + name_length + extra + member.compress_size
        position += _descriptor_length(stream, position) if flags & _DESCRIPTOR else 0
    if position != content.start_dir:
        yield _hidden("", f"bytes {position:,} to {content.start_dir:,} belong to no member")


def _descriptor_length(stream: IO[bytes], position: int) -> int:
    """12 or 20 bytes (zip64), and 4 for a signature; the next record starts with PK."""
    stream.seek(position)
    behind = stream.read(28)
    for length in (16, 12, 24, 20):
        if behind[length : length + 2] == b"PK":
            return length
    return 0


def _unsupported(member: zipfile.ZipInfo, what: str) -> Finding:
    return Finding.error(
        "zip-unsupported",
        member.filename,
        f"{what}: TorchServe cannot unpack it",
        "pack the archive again, stored or deflated and not encrypted",
    )


def _bomb(where: str, meaning: str, exception: str = "") -> Finding:
    todo = f"do not serve this archive{exception or '; ask its author'}"
    return Finding.error("zip-bomb", where, meaning, todo)


def _hidden(where: str, what: str) -> Finding:
    return Finding.error(
        "zip-hidden",
        where,
        f"{what}: TorchServe reads a zip from its start, so it would unpack different files from "
        "those in the directory",
        "do not serve this archive; pack it again",
    )
