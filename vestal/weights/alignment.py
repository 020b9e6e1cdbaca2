"""Align the tensors in a safetensors file, so that workers can compute with the mapped file.

The format (huggingface.co/docs/safetensors): 8 bytes with the header's length, the header in JSON,
which may end in spaces, and the tensors without gaps, in any order. torch's kernels give the same
bits for the same alignment only, and torch allocates tensors at multiples of 64 bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vestal.files.storage import atomic_write

ALIGNMENT = 64
_LENGTH = 8


def align(file: Path) -> None:
    """Rewrite a file so that tensors begin at multiples of 64 bytes, as far as sizes allow.

    Tensors whose sizes are multiples of 64 bytes come first, so only those after them, and after
    the first of another size, may begin elsewhere.
    """
    with file.open("rb") as source:
        length = int.from_bytes(source.read(_LENGTH), "little")
        header: dict[str, Any] = json.loads(source.read(length))
        begin = _LENGTH + length
        names = [name for name in header if name != "__metadata__"]
        sizes = {name: _size(header[name]) for name in names}
        ordered = sorted(names, key=lambda name: (sizes[name] % ALIGNMENT != 0, -sizes[name], name))
        placed, offset = dict(header), 0
        for name in ordered:
            offsets = [offset, offset + sizes[name]]
            placed[name] = {**header[name], "data_offsets": offsets}
            offset = offsets[1]
        text = json.dumps(placed, separators=(",", ":")).encode()
        text += b" " * (-(_LENGTH + len(text)) % ALIGNMENT)
        with atomic_write(file) as fresh, fresh.open("wb") as target:
            target.write(len(text).to_bytes(_LENGTH, "little") + text)
            for name in ordered:
                source.seek(begin + header[name]["data_offsets"][0])
                _copy(source, target, sizes[name])


def _size(entry: dict[str, Any]) -> int:
    start, end = entry["data_offsets"]
    return int(end - start)


def _copy(source: Any, target: Any, size: int) -> None:
    while size:
        piece = source.read(min(size, 1 << 22))
        target.write(piece)
        size -= len(piece)
