"""An opened image becomes opaque 8-bit pixels: transparency over a background, deep pixels scaled.

A depth is scaled by the range that the format states, never by the values found: two images of one
kind are treated alike, in training and in serving.
"""

from __future__ import annotations

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
    """A colour by its CSS name or as #rrggbb.

    Raises:
        ValueError: it is neither.
    """
    try:
        found = ImageColor.getrgb(name)
    except ValueError:
        found = None
    if found is None or len(found) != 3:
        raise ValueError(
            f"handler.background: {name!r} is not an opaque colour; use white, black, another CSS "
            "name or '#rrggbb'"
        )
    return found


def flatten(image: Image.Image, mode: Mode, background: Colour = WHITE) -> Image.Image:
    """The image as opaque 8-bit grey ("L") or colour ("RGB").

    Raises:
        InputError: 415, pixels whose range the file does not state (32-bit, signed, float).
    """
    # Pillow takes PNG's transparent colour for 8 bits whatever the depth of the file.
    key = _transparent_colour(image)
    if key is not None:
        image.info["transparency"] = key
    elif image.format == "PNG" and image.mode in ("L", "RGB"):
        image.info.pop("transparency", None)
    if image.format == "TIFF":
        _check_samples(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    seen = image.convert("RGBA")
    alpha = seen.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return seen.convert(mode)
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(seen.convert("RGB"), mask=alpha)
    return canvas.convert(mode)


def _transparent_colour(image: Image.Image) -> int | Colour | None:
    """A PNG's transparent grey value or colour in 8 bits; None: there is none.

    Of 16 bits a channel the upper 8 are compared: Pillow decodes no more.
    """
    stated = image.info.get("transparency")
    tiles = getattr(image, "tile", None)
    if image.format != "PNG" or image.mode not in ("L", "RGB") or stated is None or not tiles:
        return None
    raw = str(tiles[0].args)
    values = stated if isinstance(stated, tuple) else (stated,)
    if raw.endswith("16B"):
        values = tuple(value >> 8 for value in values)
    elif ";" in raw:  # L;2 and L;4
        values = tuple(value * 255 // (2 ** int(raw[-1]) - 1) for value in values)
    if max(values) > 255:  # no pixel has it
        return None
    return (values[0], values[1], values[2]) if image.mode == "RGB" else values[0]


def _check_samples(image: Image.Image) -> None:
    formats = _tag(image, _SAMPLE_FORMAT, (_UNSIGNED,))
    if any(kind != _UNSIGNED for kind in formats):
        raise InputError(
            415,
            "the TIFF has signed or floating-point pixels, whose range it does not state; send "
            "unsigned 8 or 16 bits",
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Unsigned integers of up to 16 bits, scaled to 8, with their transparent value if any."""
    if image.mode == "F":
        raise InputError(415, "floating-point pixels have no known range; send 8 or 16 bits")
    # Pillow scales a PGM by its own maximum to 16 bits, and calls it "I" all the same.
    if image.mode == "I" and image.format != "PPM":
        raise InputError(415, "32-bit integer pixels have no known range; send 8 or 16 bits")
    bits = _tag(image, _BITS, (16,))[0]
    deep = np.asarray(image)
    # A table: in floating point an image of 50 megapixels would take 1 GB.
    scale = 255 / (2**bits - 1)
    grey = np.clip(np.arange(1 << 16) * scale + 0.5, 0, 255).astype(np.uint8)[deep]
    if _tag(image, _PHOTOMETRIC, (1,))[0] == _WHITE_IS_ZERO:
        grey = 255 - grey
    scaled = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if transparent is not None:
        scaled.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
    return scaled


def _tag(image: Image.Image, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """A tag of a TIFF as a tuple of integers; the default where it has none, or is no TIFF."""
    found = getattr(image, "tag_v2", {}).get(tag, default)
    return found if isinstance(found, tuple) else (found,)
