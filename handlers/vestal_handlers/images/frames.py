"""How many frames an image file has, as far as a limit, without decoding any of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image

from vestal_handlers.images import limits
from vestal_handlers.images.limits import LimitedReader

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GIF_HEADER = 13
_EXTENSION, _IMAGE = 0x21, 0x2C


def has_more_frames(image: Image.Image, data: bytes | bytearray, most: int) -> bool:
    """Whether an opened file has more than `most` frames: pictures of a GIF, WebP or APNG, pages.

    What comes after a fault in the file is not counted: it cannot be decoded either.
    """
    if image.format == "GIF":
        # Pillow's seek() would decode every frame on its way, and its n_frames reads them all.
        return _gif_frames(data, most) > most
    if image.format == "PNG":
        return _apng_frames(data) > most
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


def png_chunks(data: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's type, start and end, as far as the end of the image or of the data.

    Raises:
        OSError: after as many chunks as a `LimitedReader` allows reads.
    """
    at, chunks = len(PNG_SIGNATURE), 0
    while at + 8 <= len(data):
        chunks += 1
        if chunks > limits.READS:
            raise OSError("the file is in too many pieces")
        length, kind = struct.unpack_from("!I4s", data, at)
        yield kind, at, at + 12 + length
        at += 12 + length
        if kind == b"IEND":
            return


def gif_blocks(data: bytes | bytearray) -> Iterator[tuple[int | None, int, int]]:
    """Each block's start and end, and an extension's label; None of the header and of images.

    Raises:
        IndexError: the file ends inside a block.
    """
    at = _GIF_HEADER + _colours(data[10])
    yield None, 0, at
    while at < len(data) and data[at] in (_EXTENSION, _IMAGE):
        label = data[at + 1] if data[at] == _EXTENSION else None
        first = at + 2 if data[at] == _EXTENSION else at + 11 + _colours(data[at + 9])
        end = _after_sub_blocks(data, first)
        yield label, at, end
        at = end


def _apng_frames(data: bytes | bytearray) -> int:
    """The number that an APNG states before its pixels; 1 where that is no number of frames."""
    for kind, start, end in png_chunks(data):
        if kind == b"acTL" and end - start == 20 and end <= len(data):
            stated = int.from_bytes(data[start + 8 : start + 12], "big")
            return stated if 0 < stated <= 2**31 else 1
        if kind == b"IDAT":
            break
    return 1


def _gif_frames(data: bytes | bytearray, most: int) -> int:
    """Image blocks of a GIF, up to `most` + 1 (GIF89a specification, appendix A)."""
    found = -1  # the header is the first block
    try:
        for label, _, _ in gif_blocks(data):
            found += label is None
            if found > most:
                break
    except IndexError:  # the file ends here
        found += 1
    return max(found, 0)


def _colours(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes | bytearray, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1
