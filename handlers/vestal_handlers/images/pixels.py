"""Read an image from nested lists of numbers, H x W or H x W x C, as of `array.tolist()`."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from vestal_handlers.errors import InputError
from vestal_handlers.requests.schema import validate

CHANNELS = (1, 3, 4)
_VALUE: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 255}


def _list_of(items: dict[str, Any], count: int | None = None) -> dict[str, Any]:
    most = {} if count is None else {"maxItems": count}
    return {"type": "array", "items": items, "minItems": count or 1, **most}


_ROW = {"type": "array", "minItems": 1}
PIXELS_SCHEMA: dict[str, Any] = {
    "description": "rows of pixels from top to bottom, of the same length; grey values or channels",
    "anyOf": [
        _list_of(_list_of(_VALUE)),
        *(_list_of(_list_of(_list_of(_VALUE, count))) for count in CHANNELS),
    ],
}


def read_pixels(rows: list[Any], max_pixels: int) -> npt.NDArray[np.uint8]:
    """Convert nested lists to uint8 [H, W] or [H, W, C], C = 1, 3 or 4.

    Raises:
        InputError: 413 too many pixels; 422 a wrong row, value or shape, which the message names.
    """
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    if len(rows) * width > max_pixels:
        raise InputError(
            413,
            f"an image of {len(rows)} rows of {width}: more than {max_pixels:,} pixels "
            "(handler.max_pixels); send it smaller",
        )
    shape, values = _flatten(rows)
    if not values or list in set(map(type, values)) or not _is_image(shape):
        raise _wrong_shape(rows, shape)
    # `set` and NumPy check a hundred times as many values per second as a loop.
    if set(map(type, values)) <= {int, float}:
        try:
            flat = np.array(values, dtype=np.float64)
        except OverflowError:  # an integer with hundreds of digits
            flat = np.array([np.nan])
        if (flat == np.clip(np.rint(flat), 0, 255)).all():
            return flat.astype(np.uint8).reshape(shape)
    first = next(index for index, value in enumerate(values) if not _is_level(value))
    where = "".join(f"[{position}]" for position in np.unravel_index(first, shape))
    validate(values[first], _VALUE, f"item {where} of the image")
    raise InputError(422, f"item {where} of the image is not an integer from 0 to 255")


def _flatten(rows: list[Any]) -> tuple[tuple[int, ...], list[Any]]:
    """The shape, as deep as all lists of a level have the same length, and the values below it."""
    shape, level = [len(rows)], rows
    while set(map(type, level)) == {list} and len(set(map(len, level))) == 1:
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS)


def _is_level(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 255 and value == int(value)


def _wrong_shape(rows: list[Any], shape: tuple[int, ...]) -> InputError:
    """The error for lists that are not an image; names the first wrong row or the shape."""
    if len(shape) == 1:
        for number, row in enumerate(rows):
            validate(row, _ROW, f"row {number} of the image")
            if len(row) != len(rows[0]):
                return InputError(
                    422,
                    f"row {number} of the image has {len(row)} pixels, row 0 has {len(rows[0])}",
                )
    sides = " x ".join(map(str, shape))
    hint = ""
    if len(shape) == 2 and 0 not in shape:
        hint = ", with pixels of different lengths"
    elif len(shape) == 3 and shape[0] in CHANNELS:
        hint = "; channels come last: send tensor.permute(1, 2, 0)"
    elif len(shape) == 4:
        hint = '; send several images as {"instances": [image, ...]}'
    return InputError(
        422, f"the image must be H x W, or H x W x C with 1, 3 or 4 channels, got {sides}{hint}"
    )
