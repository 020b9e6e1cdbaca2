"""Pickles, looked for everywhere and disassembled by picklescan: nothing is unpickled.

A pickle may stand in the open, in torch's zip (.pt, .pth, .bin), in torch's older format, in a zip
in that zip (.pt2 keeps its sample inputs so), or in a numpy file of objects.
"""

from __future__ import annotations

import logging
import pickletools
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import PurePosixPath
from typing import IO

from picklescan.scanner import (  # type: ignore[import-untyped]
    SafetyLevel,
    scan_numpy,
    scan_pickle_bytes,
    scan_pytorch,
)
from picklescan.torch import InvalidMagicError  # type: ignore[import-untyped]

from vestal.archive.checking import zips
from vestal.archive.checking.findings import Findings
from vestal.archive.checking.opening import Contents

_TORCH = {".pt", ".pth", ".bin", ".ckpt"}
_PICKLE = {".pkl", ".pickle", ".joblib", ".dat", ".data"}
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
    suffix = PurePosixPath(name).suffix
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(b"PK\3\4"):
        _check_zip(stream, where, found, refused, depth)
    elif head.startswith(b"\x93NUMPY"):
        if b"'descr': '|O'" in stream.read(256):
            stream.seek(0)
            _scan(scan_numpy, stream, where, found, refused)
    elif suffix in _PICKLE or suffix in _TORCH or _MAGIC.match(head):
        if not _countable(stream):
            found.warning(
                "pickle-unread",
                where,
                f"a pickle of more than {_MAX_OPS:,} steps: too long to be scanned",
                "keep data in a format without code (safetensors, npy, parquet)",
            )
            return
        how = _scan_torch if suffix in _TORCH else scan_pickle_bytes
        _scan(how, stream, where, found, refused)


def _scan(
    how: Callable[[IO[bytes], str], object],
    stream: IO[bytes],
    where: str,
    found: Findings,
    refused: str | None,
) -> None:
    try:
        scanned = how(stream, where)
    except Exception as error:  # whatever a scanner meets in bytes that are made to break it
        found.warning(
            "pickle-unread",
            where,
            f"a pickle that the scanner could not follow ({error}); an honest one it can",
            "do not load it unless you made it",
        )
        return
    _say(where, scanned, found, refused)


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
        found.warning(
            "pickle-unread",
            where,
            f"a zip {depth} zips deep: not opened",
            "pack files as they are",
        )
        return
    before = len(found.items)
    size = stream.seek(0, 2)
    try:
        content = zipfile.ZipFile(stream)
        zips.judge(content.infolist(), size, found, f"{where}!")
        for member in content.infolist() if len(found.items) == before else ():
            with tempfile.SpooledTemporaryFile(max_size=1 << 24) as inner:
                if _may_hold_pickle(content, member):
                    inner.writelines(zips.pieces(content, member))
                    inner.seek(0)
                    inside = f"{where}!{member.filename}"
                    _check(inner, member.filename, inside, found, refused, depth + 1)
    except (*zips.BROKEN, zips.Bomb, OSError) as error:
        found.error(
            "damaged",
            where,
            f"a zip that cannot be read to its end ({error}): whatever loads it fails",
            "copy it again, or save it again",
        )


def _may_hold_pickle(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """A look at its first bytes: tensors, which are most of a file, are not copied out."""
    with content.open(member) as stream:
        head = stream.read(8)
    suffix = PurePosixPath(member.filename).suffix
    return bool(
        suffix in _PICKLE | _TORCH
        or _MAGIC.match(head)
        or head.startswith((b"PK\3\4", b"\x93NUMPY"))
    )


def _countable(stream: IO[bytes]) -> bool:
    """Whether it is short enough for picklescan; leaves the stream at its start."""
    try:
        return next(islice(pickletools.genops(stream), _MAX_OPS, None), None) is None
    except Exception:  # what pickletools makes of bytes that are no pickle: anything
        return True
    finally:
        stream.seek(0)


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
