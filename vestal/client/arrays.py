"""Arrays, tensors and tables as JSON or PNG, by their own methods: nothing is imported for them.

An array of uint8 is an image where its shape is one: H x W, H x W x 1, 3 or 4 of numpy, H x W or
1, 3 or 4 x H x W of torch. It goes as PNG, whose pixels are exact and which every image handler
reads; all other arrays go as JSON.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
"""PNG's number for grey, RGB and RGBA, by channels."""
COMPRESSION = 1
"""zlib's fastest: an image travels faster than it compresses."""


def comes_from(value: Any, package: str) -> bool:
    """Is its type, or one that it extends, defined in the package? Imports nothing."""
    return any(
        kind.__module__ == package or kind.__module__.startswith(package + ".")
        for kind in type(value).__mro__
    )


def is_image(value: Any) -> bool:
    """Is it an array or a tensor whose dtype and shape are an image's?"""
    if str(getattr(value, "dtype", None)) not in ("uint8", "torch.uint8") or 0 in value.shape:
        return False
    shape = tuple(value.shape)
    channels = shape[0 if comes_from(value, "torch") else -1] if len(shape) == 3 else 1
    return len(shape) == 2 or (len(shape) == 3 and channels in _COLOR_TYPES)


def png(image: Any) -> bytes:
    """An image as PNG, 8 bits a channel."""
    if comes_from(image, "torch"):
        image = image.detach().cpu()
        if image.ndim == 3:
            image = image.permute(1, 2, 0)
        image = image.contiguous().numpy()
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    # Each row begins with its filter: none.
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows, COMPRESSION))
        + _chunk(b"IEND", b"")
    )


def plain(value: Any) -> Any:
    """What JSON can hold of an array, a tensor, a pandas row or a table; raises TypeError.

    A pandas row (Series) is an object by name, a table (DataFrame) `{"instances": [row, ...]}`.
    """
    if comes_from(value, "torch"):
        return value.detach().cpu().tolist()
    if comes_from(value, "numpy"):
        return value.tolist()
    if comes_from(value, "pandas"):
        if hasattr(value, "to_dict") and hasattr(value, "columns"):
            return {"instances": value.to_dict(orient="records")}
        if hasattr(value, "to_dict"):
            return value.to_dict()
        if hasattr(value, "isoformat"):
            return value.isoformat()
    raise TypeError(f"it holds a {type_name(value)}")


def type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
