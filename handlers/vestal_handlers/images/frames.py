"""Count the frames of an image file up to a limit, without decoding them."""

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
    """Whether an opened file has more than `most` frames (GIF, WebP, APNG) or pages (TIFF).

    Frames after an error in the file do not count, because they cannot be decoded.
    """
    if image.format == "GIF":
        # Pillow's seek() would decode every frame, and n_frames would read them all.
        return _gif_frames(data, most) > most
    if image.format == "PNG":
        return _apng_frames(data) > most
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > most  # from the header
    if not getattr(image, "is_animated", False):
        return False
    try:
        # seek() reads no pixels; it moves a second image, as the first one stays at its page.
        Image.open(LimitedReader(data), formats=["TIFF"]).seek(most)
    except Exception:  # Pillow raises many kinds of exceptions for a corrupt page
        return False
    return True


def png_chunks(data: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """The type, start and end of each chunk, up to the end of the image or of the data.

    Raises:
        OSError: there are more chunks than a `LimitedReader` allows reads.
    """
    at, chunks = len(PNG_SIGNATURE), 0
    while at + 8 <= len(data):
        chunks += 1
        if chunks > limits.READS:
            raise OSError("the file has too many small parts")
        length, kind = struct.unpack_from("!I4s", data, at)
        yield kind, at, at + 12 + length
        at += 12 + length
        if kind == b"IEND":
            return


def gif_blocks(data: bytes | bytearray) -> Iterator[tuple[int | None, int, int]]:
    """The label, start and end of each block; only extensions have a label.

    Raises:
        IndexError: the file ends inside a block.
    """
    at = _GIF_HEADER + _colour_table_size(data[10])
    yield None, 0, at
    while at < len(data) and data[at] in (_EXTENSION, _IMAGE):
        label = data[at + 1] if data[at] == _EXTENSION else None
        first = at + 2 if data[at] == _EXTENSION else at + 11 + _colour_table_size(data[at + 9])
        end = _after_sub_blocks(data, first)
        yield label, at, end
        at = end


def _apng_frames(data: bytes | bytearray) -> int:
    """The number of frames in the header of an APNG; 1 without one, or if it is not valid."""
    for kind, start, end in png_chunks(data):
        if kind == b"acTL" and end - start == 20 and end <= len(data):
            count = int.from_bytes(data[start + 8 : start + 12], "big")
            return count if 0 < count <= 2**31 else 1
        if kind == b"IDAT":
            break
    return 1


def _gif_frames(data: bytes | bytearray, most: int) -> int:
    """Count the images of a GIF, up to `most` + 1 (GIF89a specification, appendix A)."""
    count = -1  # the header has no label, as images
    try:
        for label, _, _ in gif_blocks(data):
            count += label is None
            if count > most:
                break
    except IndexError:  # the file ends here
        count += 1
    return max(count, 0)


def _colour_table_size(flags: int) -> int:
    """The size in bytes of the colour table that follows these flags."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes | bytearray, at: int) -> int:
    while data[at]:
        at += data[at] + 1
    return at + 1
