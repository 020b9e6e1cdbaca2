"""How many frames an image file has, as far as a limit, without decoding any of them."""

from __future__ import annotations

from PIL import Image

from vestal_handlers.image_limits import LimitedReader

_GIF_HEADER = 13
_EXTENSION, _IMAGE = 0x21, 0x2C


def has_more_frames(image: Image.Image, data: bytes | bytearray, most: int) -> bool:
    """Whether an opened file has more than `most` frames: pictures of a GIF, WebP or APNG, pages.

    What comes after a fault in the file is not counted: it cannot be decoded either.
    """
    if image.format == "GIF":
        # Pillow's seek() would decode every frame on its way, and its n_frames reads them all.
        return _gif_frames(data, most) > most
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > most  # it stands in the header
    if not getattr(image, "is_animated", False):
        return False
    try:
        # Reads directories, no pixels; in a copy, as the image stays at its first page.
        Image.open(LimitedReader(data), formats=["TIFF"]).seek(most)
    except Exception:  # Pillow raises nearly anything for a corrupt page
        return False
    return True


def _gif_frames(data: bytes | bytearray, most: int) -> int:
    """Image blocks of a GIF, up to `most` + 1 (GIF89a specification, appendix A)."""
    found, at = 0, _GIF_HEADER + _colours(data[10])
    try:
        while found <= most:
            if data[at] == _EXTENSION:
                at = _after_sub_blocks(data, at + 2)
            elif data[at] == _IMAGE:
                found += 1
                at = _after_sub_blocks(data, at + 11 + _colours(data[at + 9]))
            else:
                break
    except IndexError:  # the file ends here
        pass
    return found


def _colours(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes | bytearray, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1
