"""Convert an opened image to opaque 8-bit pixels.

Transparent pixels are composited over a background. Deeper pixels are scaled by the range of their
format, never by the values in the image, so that all images are treated alike.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import numpy as np
from PIL import Image, ImageColor

from vestal_handlers.errors import InputError

Mode = Literal["L", "RGB"]
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


def colour_of(name: str) -> Colour:
    """Parse a colour: a CSS name or #rrggbb.

    Raises:
        ValueError: the name is not that of an opaque colour.
    """
    with contextlib.suppress(ValueError):
        colour = ImageColor.getrgb(name)
        if len(colour) == 3:
            return colour
    raise ValueError(
        f"handler.background: {name!r} is not an opaque colour; use white, black, another CSS "
        "name or '#rrggbb'"
    )


def flatten(image: Image.Image, mode: Mode, background: Colour = WHITE) -> Image.Image:
    """Convert an image to opaque 8-bit grey ("L") or colour ("RGB").

    Raises:
        InputError: 415, pixels of an unknown range (32-bit, signed, float).
    """
    # Pillow compares the transparent colour of a PNG as 8 bits, whatever the depth of the file.
    transparent = _transparent_colour(image)
    if transparent is not None:
        image.info["transparency"] = transparent
    elif image.format == "PNG" and image.mode in ("L", "RGB"):
        image.info.pop("transparency", None)
    if image.format == "TIFF":
        _check_samples(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert(mode)
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(rgba.convert("RGB"), mask=alpha)
    return canvas.convert(mode)


def _transparent_colour(image: Image.Image) -> int | Colour | None:
    """A PNG's transparent grey value or colour in 8 bits; None: there is none.

    With 16 bits per channel only the upper 8 are compared, as Pillow decodes no more.
    """
    value = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or image.mode not in ("L", "RGB") or value is None or not tiles:
        return None
    raw = str(tiles[0].args)
    values = value if isinstance(value, tuple) else (value,)
    if raw.endswith("16B"):
        values = tuple(each >> 8 for each in values)
    elif ";" in raw:  # L;2 and L;4
        values = tuple(each * 255 // (2 ** int(raw[-1]) - 1) for each in values)
    if max(values) > 255:  # no pixel has this value
        return None
    return (values[0], values[1], values[2]) if image.mode == "RGB" else values[0]


def _check_samples(image: Image.Image) -> None:
    formats = _tag(image, _SAMPLE_FORMAT, (_UNSIGNED,))
    if any(kind != _UNSIGNED for kind in formats):
        raise InputError(
            415,
            "the TIFF has signed or floating-point pixels, whose range is unknown; send unsigned "
            "8 or 16 bits",
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale unsigned integers of up to 16 bits to 8; the transparent value becomes alpha."""
    if image.mode == "F":
        raise InputError(415, "floating-point pixels have no known range; send 8 or 16 bits")
    # Pillow scales a PGM by its maximum to 16 bits, but its mode is "I" as well.
    if image.mode == "I" and image.format != "PPM":
        raise InputError(415, "32-bit integer pixels have no known range; send 8 or 16 bits")
    bits = _tag(image, _BITS, (16,))[0]
    pixels = np.asarray(image)
    # A lookup table, because 50 megapixels in floating point would take 1 GB.
    scale = 255 / (2**bits - 1)
    grey = np.clip(np.arange(1 << 16) * scale + 0.5, 0, 255).astype(np.uint8)[pixels]
    if _tag(image, _PHOTOMETRIC, (1,))[0] == _WHITE_IS_ZERO:
        grey = 255 - grey
    scaled = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if transparent is not None:
        scaled.putalpha(Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8)))
    return scaled


def _tag(image: Image.Image, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """A tag of a TIFF as a tuple of integers; the default without the tag or for other formats."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return value if isinstance(value, tuple) else (value,)
