"""Pillow images as request bodies, without importing Pillow."""

from __future__ import annotations

import io
from typing import Any

from vestal.client.arrays import COMPRESSION
from vestal.client.errors import InvalidInput

_ORIENTATION = 0x0112  # EXIF tag; its values 2 to 8 mirror or rotate the image
# Modes that PNG does not have. The conversions keep everything that a handler can use.
_CONVERTED = {
    "CMYK": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "YCbCr": "RGB",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "La": "LA",
}
_TIFF_MODES = ("F", "I", "LAB")


def encode_image(image: Any) -> tuple[bytes, str]:
    """Return a Pillow image as PNG or TIFF bytes, and their content type.

    The pixels are unchanged and the EXIF orientation is kept, so a handler gets the same as from
    the image's own file.

    Raises:
        InvalidInput: the image cannot be decoded, or neither format has its mode.
    """
    buffer = io.BytesIO()
    try:
        image.load()  # first, because loading a TIFF turns it upright
        options = _orientation(image)
        if image.mode in _TIFF_MODES:
            image.save(buffer, format="TIFF", compression="raw", **options)
            return buffer.getvalue(), "image/tiff"
        if image.mode in _CONVERTED:
            image = image.convert(_CONVERTED[image.mode])
            options["icc_profile"] = None  # the profile describes the previous mode
        image.save(buffer, format="PNG", compress_level=COMPRESSION, **options)
    except (AttributeError, OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"the input image cannot be written as PNG: {error}") from error
    return buffer.getvalue(), "image/png"


def _orientation(image: Any) -> dict[str, Any]:
    """Return `exif=` with only the orientation; an empty dict if the image is stored upright."""
    try:
        exif = image.getexif()
        orientation = exif.get(_ORIENTATION)
    except Exception:  # invalid EXIF data raises nearly any error, and is ignored
        return {}
    if not isinstance(orientation, int) or orientation not in range(2, 9):
        return {}
    alone = type(exif)()
    alone[_ORIENTATION] = orientation
    return {"exif": alone}
