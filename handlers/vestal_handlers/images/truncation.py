"""Repair a truncated JPEG, as browsers do, if enough of the image is present."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

END = b"\xff\xd9"
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# SOF0 to SOF15, without the three markers of tables.
_FRAMES = {bytes([marker]) for marker in {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}}
_SCAN = b"\xda"
_COEFFICIENTS = 64


@dataclass
class _JpegLayout:
    """The structure of a JPEG.

    Attributes:
        end: the end of the last complete segment.
        coefficients: those with data, by component.
    """

    end: int
    components: int = 0
    scans: int = 0
    coefficients: dict[int, set[int]] = field(default_factory=dict)

    @property
    def has_all_coefficients(self) -> bool:
        """Whether there is data for every coefficient of every component."""
        counts = [len(numbers) for numbers in self.coefficients.values()]
        return bool(counts) and counts == [_COEFFICIENTS] * self.components


def with_end_marker(data: bytes | bytearray) -> bytes | None:
    """Add the end marker of a truncated JPEG; None if too little of the image is present.

    A baseline JPEG needs at least half of its rows; the others become grey. A progressive JPEG
    needs some data for every coefficient; then it is only less sharp.
    """
    data = bytes(data)  # slices of a bytearray are not hashable
    try:
        layout = _layout(data)
    except IndexError:  # a frame or scan header is too short
        return None
    if not layout.has_all_coefficients:
        return None
    repaired = data[: layout.end] + END
    if layout.scans == 1:
        try:
            rows, height = _rows(data, repaired)
        except Exception:  # Pillow raises many kinds of exceptions for a corrupt file
            return None
        if rows * 2 < height:
            return None
    return repaired


def _layout(data: bytes) -> _JpegLayout:
    layout, at = _JpegLayout(end=len(data)), 2
    while data[at : at + 1] == b"\xff" and data[at : at + 2] != END:
        if data[at : at + 2] == b"\xff\xff":  # a fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        marker, body = data[at + 1 : at + 2], data[at + 4 : at + 2 + length]
        if at + 2 + length >= len(data) or length < 2:  # the segment is cut
            layout.end = at
            break
        at += 2 + length
        if marker in _FRAMES:
            layout.components = body[5]
        elif marker == _SCAN:
            layout.scans += 1
            first, last = body[1 + 2 * body[0]], body[2 + 2 * body[0]]
            for component in body[1 : 1 + 2 * body[0] : 2]:
                layout.coefficients.setdefault(component, set()).update(range(first, last + 1))
            following = _NEXT_MARKER.search(data, at)
            at = following.start() if following else len(data)
    return layout


def _rows(data: bytes, repaired: bytes) -> tuple[int, int]:
    """The number of rows with data, from the top, and the height.

    Missing rows are black when decoded without an end marker, and grey with it.
    """
    # libjpeg needs some bytes after those that it decodes; these are not a valid code.
    partial = Image.open(BytesIO(data + b"\xff\0" * 8))
    filled = Image.open(BytesIO(repaired))
    try:
        partial.load()
    except OSError:
        partial.tile = []  # there is nothing more to decode
    differs = (np.asarray(partial) != np.asarray(filled)).reshape(partial.height, -1).any(axis=1)
    missing = np.flatnonzero(differs)
    return (int(missing[0]) if len(missing) else partial.height), partial.height
