"""A JPEG that ends too early: shown as browsers show it, where most of the picture is there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

END = b"\xff\xd9"
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# SOF0 to SOF15; the markers left out are tables.
_FRAMES = {bytes([marker]) for marker in {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}}
_SCAN = b"\xda"
_COEFFICIENTS = 64


@dataclass
class _JpegLayout:
    """What a JPEG's markers state, and where its last whole part ends."""

    end: int
    components: int = 0
    scans: int = 0
    begun: dict[int, set[int]] = field(default_factory=dict)  # coefficients, by component

    @property
    def is_begun(self) -> bool:
        """Whether there is data for every coefficient of every component."""
        found = [len(coefficients) for coefficients in self.begun.values()]
        return bool(found) and found == [_COEFFICIENTS] * self.components


def with_end_marker(data: bytes | bytearray) -> bytes | None:
    """The JPEG with an end marker; None where too little of the picture is there.

    Of a baseline JPEG at least half of the rows must be there; what is missing is grey. A JPEG of
    several scans (progressive) is whole, if less sharp, once its last first-pass scan has begun.
    """
    data = bytes(data)  # slices of a bytearray are in no set
    try:
        layout = _layout(data)
    except IndexError:  # a frame or scan without its numbers
        return None
    if not layout.is_begun:
        return None
    whole = data[: layout.end] + END
    if layout.scans == 1:
        try:
            rows, height = _rows(data, whole)
        except Exception:  # Pillow raises nearly anything for a corrupt file
            return None
        if rows * 2 < height:
            return None
    return whole


def _layout(data: bytes) -> _JpegLayout:
    found, at = _JpegLayout(end=len(data)), 2
    while data[at : at + 1] == b"\xff" and data[at : at + 2] != END:
        if data[at : at + 2] == b"\xff\xff":  # fill
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        marker, body = data[at + 1 : at + 2], data[at + 4 : at + 2 + length]
        if at + 2 + length >= len(data) or length < 2:  # cut in a header: what is before is whole
            found.end = at
            break
        at += 2 + length
        if marker in _FRAMES:
            found.components = body[5]
        elif marker == _SCAN:
            found.scans += 1
            first, last = body[1 + 2 * body[0]], body[2 + 2 * body[0]]
            for component in body[1 : 1 + 2 * body[0] : 2]:
                found.begun.setdefault(component, set()).update(range(first, last + 1))
            following = _NEXT_MARKER.search(data, at)
            at = following.start() if following else len(data)
    return found


def _rows(data: bytes, whole: bytes) -> tuple[int, int]:
    """How many rows the data give, from the top, of how many.

    Decoded without an end marker, rows that are missing stay black; with it they become grey.
    """
    # libjpeg waits until it has some bytes more than it needs: bits that are no code.
    partial = Image.open(BytesIO(data + b"\xff\0" * 8))
    filled = Image.open(BytesIO(whole))
    try:
        partial.load()
    except OSError:
        partial.tile = []  # as it is: nothing more to decode
    differs = (np.asarray(partial) != np.asarray(filled)).reshape(partial.height, -1).any(axis=1)
    missing = np.flatnonzero(differs)
    return (int(missing[0]) if len(missing) else partial.height), partial.height
