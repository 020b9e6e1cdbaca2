"""Small images in many formats."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def seven(size: tuple[int, int] = (28, 28)) -> Image.Image:
    """A grey, asymmetric image of the digit seven."""
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[4:7, 6:22] = 255
    for row in range(7, 25):
        column = 21 - (row - 7) // 2
        pixels[row, column - 2 : column + 1] = 200
    return Image.fromarray(pixels).resize(size)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image as a file in memory; `options` are those of Pillow's save()."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))


def png(rows: Any, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of samples, [H, W] or [H, W, C], in a bit depth and a colour type (PNG, 11.2.1).

    Pillow writes no 16-bit colour, no 2-bit grey and no transparent grey value.
    """
    samples = np.asarray(rows)
    height, width = samples.shape[:2]
    if depth == 16:
        lines = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        lines = np.packbits(bits.reshape(height, -1), axis=1)
    header = struct.pack("!IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb(side: int = 13_000) -> bytes:
    """A valid grey PNG of `side` x `side` zeros in about 20 kB, built without its pixels."""
    header = struct.pack("!IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
