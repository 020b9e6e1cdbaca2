"""A zip is judged by its directory, then unpacked with every byte counted.

TorchServe reads a .mar as a stream, local header by local header, and never looks at the central
directory; most tools, this one too, read the directory. So the two must tell the same.
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

from vestal.mar.findings import Findings
from vestal.mar.names import judge_names, safe_name

# What Python's reader makes of bytes that are no zip, or no longer one.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)
RATIO = 200  # real weights and sources stay far below it
SMALL = 1 << 20  # bytes that are no bomb whatever their ratio: a small file of zeros shrinks a lot
MAX_MEMBERS = 100_000
_CHUNK = 1 << 20
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR, ENCRYPTED = 0x8, 0x1
_UNSUPPORTED = "TorchServe cannot unpack it", "pack it again, stored or deflated and not encrypted"


class NoRoom(Exception):
    """The disk is too small; `needed` bytes."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class Bomb(Exception):
    """A member gave more bytes than it declares."""


def unpack(archive: Path, target: Path, room: int, found: Findings) -> list[str] | None:
    """Writes the files below `target` and gives their names; None where it is not safe.

    Raises:
        zipfile.BadZipFile, zlib.error, EOFError, ...: not a zip (`BROKEN`).
        NoRoom: it declares more than `room` bytes.
    """
    size = archive.stat().st_size
    with archive.open("rb") as stream, zipfile.ZipFile(stream) as content:
        before = len(found.items)
        judge(content.infolist(), size, found)
        _judge_headers(stream, content, found)
        if len(found.items) > before:
            return None
        needed = sum(member.file_size for member in content.infolist())
        if needed > room:
            raise NoRoom(needed)
        names = []
        for member in content.infolist():
            if member.is_dir():
                continue
            name = safe_name(member.filename) or ""
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("wb") as sink:
                    for piece in pieces(content, member):
                        sink.write(piece)
            except BROKEN as error:
                found.error(
                    "damaged",
                    name,
                    f"its bytes are not what the zip says ({error}): the file was changed or cut",
                    "copy or pack it again",
                )
                return None
            except Bomb:
                found.error(
                    "zip-bomb",
                    name,
                    f"it unpacks to more than the {member.file_size:,} bytes that it declares",
                    "do not serve it; ask who made it",
                )
                return None
            names.append(name)
    return names


def judge(members: Sequence[zipfile.ZipInfo], size: int, found: Findings) -> None:
    """What a directory alone tells: names, links, sizes. `size`: of the whole zip, in bytes."""
    # Python cuts a name at its first NUL, and others do not.
    judge_names((member.orig_filename for member in members), found)
    for member in members:
        if stat.S_ISLNK(member.external_attr >> 16):
            found.error(
                "link",
                member.filename,
                "a symbolic link: TorchServe writes a file with the link's target as its text",
                "pack the file itself",
            )
        if member.flag_bits & ENCRYPTED:
            found.error("zip-unsupported", member.filename, "encrypted", _UNSUPPORTED[1])
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            found.error(
                "zip-unsupported",
                member.filename,
                f"compressed by method {member.compress_type}: {_UNSUPPORTED[0]}",
                _UNSUPPORTED[1],
            )
        _judge_sizes(member.filename, member.file_size, member.compress_size, found)
    _judge_sizes("", sum(member.file_size for member in members), size, found)
    if len(members) > MAX_MEMBERS:
        found.error("zip-bomb", "", f"{len(members):,} members", "pack fewer files")


def _judge_sizes(where: str, inflated: int, packed: int, found: Findings) -> None:
    if inflated > SMALL and inflated > RATIO * packed:
        found.error(
            "zip-bomb",
            where,
            f"{packed:,} bytes declare to unpack to {inflated:,}, more than {RATIO} times as much",
            "do not serve it; if these are weights of zeros, pack them stored",
        )


def pieces(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """A member's bytes; raises Bomb at the first byte more than it declares, BadZipFile where
    they are fewer or others than it declares."""
    # Python's reader stops at the declared size and says nothing: one more byte is asked for,
    # and the checksum is ours to compare.
    probe: Any = copy.copy(member)
    probe.file_size, probe.CRC = member.file_size + 1, None
    count = checksum = 0
    with content.open(probe) as stream:
        while piece := stream.read(_CHUNK):
            count += len(piece)
            checksum = zlib.crc32(piece, checksum)
            if count > member.file_size:
                raise Bomb(member.filename)
            yield piece
    if count < member.file_size:
        raise zipfile.BadZipFile(f"{count:,} bytes of {member.file_size:,}")
    if checksum != member.CRC:
        raise zipfile.BadZipFile("its checksum is another")


def _judge_headers(stream: IO[bytes], content: zipfile.ZipFile, found: Findings) -> None:
    """The local headers, as TorchServe meets them, must be those of the directory, gapless."""
    position = 0
    end = stream.seek(0, 2)
    for member in sorted(content.infolist(), key=lambda one: one.header_offset):
        if not 0 <= member.header_offset < end:
            raise zipfile.BadZipFile(f"{member.filename!r} begins outside of the file")
        stream.seek(member.header_offset)
        head = stream.read(_LOCAL.size)
        if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile(f"no header for {member.filename!r}")
        _, _, flags, method, _, _, _, packed, size, name_length, extra = _LOCAL.unpack(head)
        name = stream.read(name_length)
        told = member.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", "replace")
        # With a descriptor behind the data, and in zip64, the header leaves the sizes open.
        open_sizes = flags & _DESCRIPTOR or 0xFFFFFFFF in (packed, size)
        same_sizes = open_sizes or (packed, size) == (member.compress_size, member.file_size)
        if name != told or method != member.compress_type or not same_sizes:
            _hidden(member.filename, "the header before its data tells another story", found)
        elif member.header_offset != position:
            _hidden(
                member.filename,
                f"bytes {position:,} to {member.header_offset:,} belong to no member, or to two",
                found,
            )
        if method == zipfile.ZIP_STORED and flags & _DESCRIPTOR:
            found.error(
                "zip-unsupported",
                member.filename,
                f"stored, with its size behind the data: {_UNSUPPORTED[0]}",
                _UNSUPPORTED[1],
            )
        position = member.header_offset + _LOCAL.size + name_length + extra + member.compress_size
        position += _descriptor_length(stream, position) if flags & _DESCRIPTOR else 0
    if position != content.start_dir:
        _hidden("", f"bytes {position:,} to {content.start_dir:,} belong to no member", found)


def _descriptor_length(stream: IO[bytes], position: int) -> int:
    """12 or 20 bytes (zip64), 4 more with a signature; the next thing starts with PK."""
    stream.seek(position)
    behind = stream.read(28)
    for length in (16, 12, 24, 20):
        if behind[length : length + 2] == b"PK":
            return length
    return 0


def _hidden(where: str, what: str, found: Findings) -> None:
    found.error(
        "zip-hidden",
        where,
        f"{what}: TorchServe, which reads a zip from its start, would see other files than "
        "the zip's directory names",
        "do not serve it; pack it again",
    )
