"""Convert arrays, tensors and tables to JSON or PNG without importing their packages.

A uint8 array is an image if its shape is H x W or H x W x C (numpy), H x W or C x H x W (torch),
with C = 1, 3 or 4. Images are sent as PNG, which keeps the pixels and which every image handler
reads; other arrays are sent as JSON.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from typing import Any

from vestal.client.errors import InvalidInput

_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
"""PNG's number for grey, RGB and RGBA, by channels."""
COMPRESSION = 1  # zlib's fastest level: sending an image is faster than compressing it well


def comes_from(value: Any, package: str) -> bool:
    """Whether the package defines the type of a value, or a base class of it."""
    return any(
        kind.__module__ == package or kind.__module__.startswith(package + ".")
        for kind in type(value).__mro__
    )


def is_image(value: Any) -> bool:
    """Whether a value is an array or a tensor with the dtype and shape of an image."""
    if hasattr(value, "mask"):
        return False  # a masked array: PNG would show the masked pixels
    if str(getattr(value, "dtype", None)) not in ("uint8", "torch.uint8") or 0 in value.shape:
        return False
    shape = tuple(value.shape)
    channels = shape[0 if comes_from(value, "torch") else -1] if len(shape) == 3 else 1
    return len(shape) == 2 or (len(shape) == 3 and channels in _COLOR_TYPES)


def png(image: Any) -> bytes:
    """Encode an image as PNG, 8 bits per channel."""
    if comes_from(image, "torch"):
        image = image.detach().cpu()
        if image.ndim == 3:
            image = image.permute(1, 2, 0)
        image = image.contiguous().numpy()
    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    # Each row begins with the number of its filter; 0 is no filter.
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows, COMPRESSION))
        + _chunk(b"IEND", b"")
    )


def plain(value: Any) -> Any:
    """Convert an array, a tensor, a pandas row or a table to JSON values.

    A pandas row (Series) is an object by name, a table (DataFrame) `{"instances": [row, ...]}`.
    Raises TypeError for any other value, InvalidInput if two columns have the same name.
    """
    if comes_from(value, "torch"):
        return value.detach().cpu().tolist()
    if comes_from(value, "numpy"):
        return value.tolist()
    if comes_from(value, "pandas"):
        if hasattr(value, "to_dict") and hasattr(value, "columns"):
            return {"instances": records(value)}
        if hasattr(value, "to_dict"):
            _check_labels(value.index, "index label")
            return value.to_dict()
        if hasattr(value, "isoformat") and value == value:  # NaT is not equal to itself
            return value.isoformat()
    raise TypeError(f"it holds a {type_name(value)}")


def records(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a pandas table by column name; raises InvalidInput."""
    _check_labels(table.columns, "column")
    rows: list[dict[str, Any]] = table.to_dict(orient="records")
    return rows


def _check_labels(labels: Any, what: str) -> None:
    """Raise InvalidInput if a label cannot be a name, or two labels have the same name in JSON."""
    names = Counter(map(str, labels))
    several = [name for name, count in names.items() if count > 1]
    if several:
        raise InvalidInput(
            f"several {what}s of the input have the same name in JSON ({', '.join(several)}), "
            "which would keep one of their values; rename them"
        )
    other = [label for label in labels if not isinstance(label, (str, int, float))]
    if other:
        raise InvalidInput(
            f"the {what} {other[0]!r} of the input is a {type_name(other[0])}: expected a str or a "
            "number; rename it (for a MultiIndex, join the levels)"
        )


def type_name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
