"""Pickles, looked for everywhere and disassembled by picklescan: nothing is unpickled.

A pickle may stand in the open, in torch's zip (.pt, .pth, .bin), in torch's older format, in a zip
in that zip (.pt2 keeps its sample inputs so), or in a numpy file of objects.
"""

from __future__ import annotations

import io
import logging
import pickletools
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
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
from vestal.mar.findings import Findings
from vestal.mar.names import judge_names
from vestal.mar.opening import Contents

_TORCH = {".pt", ".pth", ".bin", ".ckpt"}
_PICKLE = {".pkl", ".pickle", ".joblib", ".dat", ".data"}
_NAMED = {".pkl", ".pickle", ".joblib"}  # what is a pickle by its name
_APPLE = b"\0\5\x16\7"  # of macOS, beside every file of a folder (._model.pt)
_NUMPY = b"\x93NUMPY"
_HEADER = 1 << 16  # bytes that hold any header of a .npy
# gzip, zlib, bzip2, xz, lzma, lz4: what joblib and pandas compress pickles with.
_COMPRESSED = (
    *(b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda"),
    *(b"BZh", b"\xfd7zXZ", b"]\0\0", b'\4"M\x18'),
)
_MAGIC = re.compile(rb"\x80[\x02-\x05]")
_MAX_OPS = 3_000_000  # picklescan keeps them all: about 600 MB
_MAX_DEPTH = 3  # zips in zips; .pt2 has two
# What torch.load takes with weights_only=True, its default, beside what picklescan calls innocuous;
# and the names of TorchScript, which C++ reads and no Python imports.
_PLAIN = re.compile(
    r"torch\.(\w+Storage|Size|device|Tensor|[a-z]+\d+\w*|bool|q?u?int\d+|per_\w+_affine|strided)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.(nn\.parameter|_C\._nn|serialization)\.(Parameter|Buffer|_get_layout)"
    r"|collections\.(OrderedDict|Counter|defaultdict)|(builtins|__builtin__)\.(set|bytearray)"
    r"|_codecs\.encode|numpy(\._?core\.multiarray)?\.(scalar|dtype|ndarray|_reconstruct)"
    r"|__torch__\..+|torch\.jit\._pickle\.\w+"
)
logging.getLogger("picklescan").setLevel(logging.CRITICAL)  # findings say it


def check_pickles(contents: Contents, found: Findings, *, refused: str | None = None) -> None:
    """Every pickle of the archive.

    Args:
        refused: the member that TorchServe's own handler loads with torch.load, which takes
            tensors only: other classes in it are an error.
    """
    for name in contents.names:
        with contents.path(name).open("rb") as stream:
            _check(stream, name, name, found, refused, depth=0)


def _check(
    stream: IO[bytes], name: str, where: str, found: Findings, refused: str | None, depth: int
) -> None:
    path = PurePosixPath(name)
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(_APPLE):
        return
    if head.startswith(b"PK\3\4"):
        _check_zip(stream, where, found, refused, depth)
    elif head.startswith(_NUMPY):
        if _holds_objects(stream):
            _scan(scan_pickle_bytes, stream, where, found, refused, named=True)
    elif head.startswith(_COMPRESSED):
        if _NAMED & set(path.suffixes):
            _unread(where, "a compressed pickle: not looked into", found)
    elif path.suffix in _PICKLE | _TORCH or _MAGIC.match(head):
        how = _scan_torch if path.suffix in _TORCH else scan_pickle_bytes
        _scan(how, stream, where, found, refused, named=path.suffix in _NAMED)


def _scan(
    how: Callable[[IO[bytes], str], object],
    stream: IO[bytes],
    where: str,
    found: Findings,
    refused: str | None,
    named: bool,
) -> None:
    """Scans from where the stream stands; `named`: it is a pickle by its name or its place."""
    ends = _ends(stream)
    if ends is None:
        _unread(where, f"a pickle of more than {_MAX_OPS:,} steps: too long to be scanned", found)
        return
    try:
        scanned = how(stream, where)
    except Exception as error:  # whatever a scanner meets in bytes that are made to break it
        _unread(where, f"a pickle that the scanner could not follow ({error})", found)
        return
    _say(where, scanned, found, refused)
    # What Python unpickles and pickletools cannot read is made to look harmless.
    if not ends and (named or getattr(scanned, "scan_err", False)):
        _unread(where, "a pickle that the scanner could not follow to its end", found)


def _unread(where: str, what: str, found: Findings) -> None:
    found.warning(
        "pickle-unread",
        where,
        what,
        "do not load it unless you made it; keep data in a format without code (safetensors, npy, "
        "parquet)",
    )


def _scan_torch(stream: IO[bytes], where: str) -> object:
    """Torch's older format is five pickles and raw data; others are one or several pickles."""
    try:
        return scan_pytorch(stream, where)
    except InvalidMagicError:
        stream.seek(0)
        return scan_pickle_bytes(stream, where)


def _check_zip(
    stream: IO[bytes], where: str, found: Findings, refused: str | None, depth: int
) -> None:
    if depth == _MAX_DEPTH:
        _unread(where, f"a zip {depth} zips deep: not opened", found)
        return
    before = len(found.items)
    try:
        content = zipfile.ZipFile(stream)
        # Nobody unpacks it but who loads it: how it is compressed is that one's matter.
        judge_names((member.orig_filename for member in content.infolist()), found, f"{where}!")
        for member in content.infolist() if len(found.items) == before else ():
            _check_member(content, member, where, found, refused, depth)
    except (*zips.BROKEN, zips.Bomb, OSError) as error:
        found.error(
            "damaged",
            where,
            f"a zip that cannot be read to its end ({error}): whatever loads it fails",
            "copy it again, or save it again",
        )


def _check_member(
    content: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    where: str,
    found: Findings,
    refused: str | None,
    depth: int,
) -> None:
    inside = f"{where}!{member.filename}"
    if member.flag_bits & zips.ENCRYPTED:
        _unread(inside, "encrypted: not looked into", found)
    elif not _may_hold_pickle(content, member):
        return
    elif member.file_size > zips.SMALL and member.file_size > zips.RATIO * member.compress_size:
        what = f"{member.compress_size:,} bytes that unpack to {member.file_size:,}"
        _unread(inside, f"{what}: not looked into", found)
    else:
        with tempfile.SpooledTemporaryFile(max_size=1 << 24) as inner:
            inner.writelines(zips.pieces(content, member))
            inner.seek(0)
            _check(inner, member.filename, inside, found, refused, depth + 1)


def _may_hold_pickle(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """A look at its first bytes: tensors, which are most of a file, are not copied out."""
    with content.open(member) as stream:
        head = stream.read(_HEADER)
    if head.startswith(_NUMPY):
        return _holds_objects(io.BytesIO(head))
    path = PurePosixPath(member.filename)
    compressed = head.startswith(_COMPRESSED) and _NAMED & set(path.suffixes)
    return bool(
        path.suffix in _PICKLE | _TORCH
        or compressed
        or _MAGIC.match(head)
        or head.startswith(b"PK\3\4")
    )


def _holds_objects(stream: IO[bytes]) -> bool:
    """Whether a .npy has objects, also in a field, which are pickled behind its header, where the
    stream stands then; True where the header cannot be read."""
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return bool(read(stream)[2].hasobject)
    except Exception:  # numpy evaluates the header's text, whatever it is
        return True


def _ends(stream: IO[bytes]) -> bool | None:
    """Whether the pickle there comes to its end; None where it is too long for picklescan. Leaves
    the stream where it was."""
    start = stream.tell()
    try:
        steps = next(islice(pickletools.genops(stream), _MAX_OPS, None), None)
        return None if steps is not None else True
    except Exception:  # what pickletools makes of bytes that are no pickle: anything
        return False
    finally:
        stream.seek(start)


def _say(where: str, scanned: object, found: Findings, refused: str | None) -> None:
    by_level: dict[object, list[str]] = {}
    for one in getattr(scanned, "globals", ()):
        by_level.setdefault(one.safety, []).append(f"{one.module}.{one.name}")
    dangerous = sorted(by_level.get(SafetyLevel.Dangerous, ()))
    unknown = sorted(
        name for name in by_level.get(SafetyLevel.Suspicious, ()) if not _PLAIN.fullmatch(name)
    )
    if dangerous:
        found.error(
            "pickle-code",
            where,
            f"loading this pickle calls {_first(dangerous)}",
            "do not load it; ask who made it, and take weights as a state_dict or safetensors",
        )
    elif unknown:
        is_refused = refused is not None and where.split("!")[0] == refused
        add = found.error if is_refused else found.warning
        add(
            "pickle-globals",
            where,
            f"this pickle needs {_first(unknown)}: torch.load refuses it by default, and a handler "
            "that loads it all the same runs their code",
            "save a state_dict: torch.save(model.state_dict(), ...)",
        )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}"


def members_of(stream: IO[bytes]) -> Iterator[str]:
    """Names in a zip below its one folder, as torch reads them; none where it is no zip."""
    try:
        with zipfile.ZipFile(stream) as content:
            for name in content.namelist():
                yield name.partition("/")[2]
    except zips.BROKEN:
        return
