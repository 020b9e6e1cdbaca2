"""Find all pickles and disassemble them with picklescan; nothing is unpickled.

A pickle may be a file, or part of torch's zip format (.pt, .pth, .bin), of torch's older format, of
a zip in that zip (the sample inputs of a .pt2), or of a numpy file of objects.
"""

from __future__ import annotations

import io
import logging
import pickletools
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import IO

from numpy.lib import format as npy
from picklescan.scanner import (  # type: ignore[import-untyped]
    SafetyLevel,
    scan_pickle_bytes,
    scan_pytorch,
)
from picklescan.torch import InvalidMagicError  # type: ignore[import-untyped]

from vestal.mar import zips
from vestal.mar.findings import Check, Finding
from vestal.mar.names import check_names
from vestal.mar.opening import Contents

_TORCH = {".pt", ".pth", ".bin", ".ckpt"}
_PICKLE = {".pkl", ".pickle", ".joblib", ".dat", ".data"}
_NAMED = {".pkl", ".pickle", ".joblib"}  # always pickles
_APPLE = b"\0\5\x16\7"  # of files that macOS adds (._model.pt)
_NUMPY = b"\x93NUMPY"
_HEADER = 1 << 16  # bytes; more than any header of a .npy has
# gzip, zlib, bzip2, xz, lzma, lz4: the compressions of joblib and pandas.
_COMPRESSED = (
    *(b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda"),
    *(b"BZh", b"\xfd7zXZ", b"]\0\0", b'\4"M\x18'),
)
_MAGIC = re.compile(rb"\x80[\x02-\x05]")
_MAX_OPS = 3_000_000  # picklescan keeps all of them: about 600 MB
_MAX_DEPTH = 3  # of zips in zips; a .pt2 has two
# What torch.load accepts with weights_only=True, its default, in addition to what picklescan calls
# innocuous; and the names of TorchScript, which only C++ reads.
_PLAIN = re.compile(
    r"torch\.(\w+Storage|Size|device|Tensor|[a-z]+\d+\w*|bool|q?u?int\d+|per_\w+_affine|strided)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.(nn\.parameter|_C\._nn|serialization)\.(Parameter|Buffer|_get_layout)"
    r"|collections\.(OrderedDict|Counter|defaultdict)|(builtins|__builtin__)\.(set|bytearray)"
    r"|_codecs\.encode|numpy(\._?core\.multiarray)?\.(scalar|dtype|ndarray|_reconstruct)"
    r"|__torch__\..+|torch\.jit\._pickle\.\w+"
)
logging.getLogger("picklescan").setLevel(logging.CRITICAL)  # findings report it


@dataclass(frozen=True)
class _Place:
    """Where a pickle may be.

    Attributes:
        name: the file name, whose suffixes count.
        where: the place in findings, `outer.pt!inner.pkl`.
        tensors_only: other classes are an error.
        depth: the number of zips around it.
    """

    name: str
    where: str
    tensors_only: bool
    depth: int = 0

    @property
    def suffixes(self) -> set[str]:
        return set(PurePosixPath(self.name).suffixes)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix


def check_pickles(contents: Contents, tensors_only: str | None = None) -> Check[None]:
    """Check every pickle of the archive.

    Args:
        tensors_only: the member that is loaded with torch.load, which rejects other classes.
    """
    for name in contents.names:
        with contents.path(name).open("rb") as stream:
            yield from _check(stream, _Place(name, name, name == tensors_only))


def _check(stream: IO[bytes], place: _Place) -> Iterator[Finding]:
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(_APPLE):
        return
    if head.startswith(b"PK\3\4"):
        yield from _check_zip(stream, place)
    elif head.startswith(_NUMPY):
        if _holds_objects(stream):
            yield from _scan(scan_pickle_bytes, stream, place, certain=True)
    elif head.startswith(_COMPRESSED):
        if _NAMED & place.suffixes:
            yield _unread(place.where, "a compressed pickle was not scanned")
    elif place.suffix in _PICKLE | _TORCH or _MAGIC.match(head):
        scanner = _scan_torch if place.suffix in _TORCH else scan_pickle_bytes
        yield from _scan(scanner, stream, place, certain=place.suffix in _NAMED)


def _scan(
    scanner: Callable[[IO[bytes], str], object], stream: IO[bytes], place: _Place, certain: bool
) -> Iterator[Finding]:
    """Scan from the stream's position; `certain`: it is a pickle by its name or its place."""
    complete = _is_complete(stream)
    if complete is None:
        yield _unread(place.where, f"a pickle of more than {_MAX_OPS:,} opcodes was not scanned")
        return
    try:
        scanned = scanner(stream, place.where)
    except Exception as error:  # the bytes may be made to break the scanner
        yield _unread(place.where, f"the scanner failed at a pickle ({error})")
        return
    yield from _check_globals(scanned, place)
    # Python may unpickle what pickletools cannot read, so an incomplete scan proves nothing.
    if not complete and (certain or getattr(scanned, "scan_err", False)):
        yield _unread(place.where, "the scanner could not read a pickle to its end")


def _unread(where: str, meaning: str) -> Finding:
    return Finding.warning(
        "pickle-unread",
        where,
        meaning,
        "do not load it unless you made it; store data in a format without code (safetensors, npy, "
        "parquet)",
    )


def _scan_torch(stream: IO[bytes], where: str) -> object:
    """Scan torch's older format, five pickles and raw data, or a series of pickles."""
    try:
        return scan_pytorch(stream, where)
    except InvalidMagicError:
        stream.seek(0)
        return scan_pickle_bytes(stream, where)


def _check_zip(stream: IO[bytes], place: _Place) -> Iterator[Finding]:
    if place.depth == _MAX_DEPTH:
        yield _unread(place.where, f"a zip inside {place.depth} other zips was not scanned")
        return
    try:
        content = zipfile.ZipFile(stream)
        members = content.infolist()
        # Only the code that loads it unpacks it, so its compression does not matter here.
        unsafe = [*check_names((each.orig_filename for each in members), f"{place.where}!")]
        yield from unsafe
        for member in members if not unsafe else ():
            yield from _check_member(content, member, place)
    except (*zips.BROKEN, zips.Bomb, OSError) as error:
        meaning = f"a zip that cannot be read to its end ({error}): loading it fails"
        yield Finding.error("damaged", place.where, meaning, "copy or save it again")


def _check_member(
    content: zipfile.ZipFile, member: zipfile.ZipInfo, outer: _Place
) -> Iterator[Finding]:
    where = f"{outer.where}!{member.filename}"
    place = _Place(member.filename, where, outer.tensors_only, outer.depth + 1)
    if member.flag_bits & zips.ENCRYPTED:
        yield _unread(where, "an encrypted member was not scanned")
    elif not _may_hold_pickle(content, member, place):
        return
    elif member.file_size > zips.SMALL and member.file_size > zips.RATIO * member.compress_size:
        size = f"{member.compress_size:,} bytes unpack to {member.file_size:,}"
        yield _unread(where, f"{size}; the member was not scanned")
    else:
        with tempfile.SpooledTemporaryFile(max_size=1 << 24) as inner:
            inner.writelines(zips.read_chunks(content, member))
            inner.seek(0)
            yield from _check(inner, place)


def _may_hold_pickle(content: zipfile.ZipFile, member: zipfile.ZipInfo, place: _Place) -> bool:
    """Decide by the first bytes: tensors, which are most of a file, are not copied."""
    with content.open(member) as stream:
        head = stream.read(_HEADER)
    if head.startswith(_NUMPY):
        return _holds_objects(io.BytesIO(head))
    return bool(
        place.suffix in _PICKLE | _TORCH
        or (head.startswith(_COMPRESSED) and _NAMED & place.suffixes)
        or _MAGIC.match(head)
        or head.startswith(b"PK\3\4")
    )


def _holds_objects(stream: IO[bytes]) -> bool:
    """Whether a .npy holds objects, also in a field; they are pickled behind its header.

    Leaves the stream behind the header; True if the header cannot be read.
    """
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return bool(read(stream)[2].hasobject)
    except Exception:  # numpy evaluates the header's text, which may be anything
        return True


def _is_complete(stream: IO[bytes]) -> bool | None:
    """Whether pickletools reads the pickle to its end; None if it is too long for picklescan.

    Leaves the stream where it was.
    """
    start = stream.tell()
    try:
        excess = next(islice(pickletools.genops(stream), _MAX_OPS, None), None)
        return None if excess is not None else True
    except Exception:  # pickletools raises many types for bytes that are not a pickle
        return False
    finally:
        stream.seek(start)


def _check_globals(scanned: object, place: _Place) -> Iterator[Finding]:
    by_level: dict[object, list[str]] = {}
    for each in getattr(scanned, "globals", ()):
        by_level.setdefault(each.safety, []).append(f"{each.module}.{each.name}")
    dangerous = sorted(by_level.get(SafetyLevel.Dangerous, ()))
    unknown = sorted(
        name for name in by_level.get(SafetyLevel.Suspicious, ()) if not _PLAIN.fullmatch(name)
    )
    if dangerous:
        yield Finding.error(
            "pickle-code",
            place.where,
            f"loading this pickle calls {_first(dangerous)}",
            "do not load it; ask its author for a state_dict or safetensors",
        )
    elif unknown:
        add = Finding.error if place.tensors_only else Finding.warning
        yield add(
            "pickle-globals",
            place.where,
            f"this pickle needs {_first(unknown)}: torch.load rejects it by default, and a handler "
            "that loads it nevertheless runs their code",
            "save a state_dict: torch.save(model.state_dict(), ...)",
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}"


def torch_members(stream: IO[bytes]) -> Iterator[str]:
    """The names in a torch zip, without its top folder; none if it is not a zip."""
    try:
        with zipfile.ZipFile(stream) as content:
            for name in content.namelist():
                yield name.partition("/")[2]
    except zips.BROKEN:
        return
