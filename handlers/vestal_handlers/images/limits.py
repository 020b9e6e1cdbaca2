"""Limits on the pixels of an image, checked before it is decoded and before it is transformed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from vestal_handlers.errors import InputError

MAX_SIDE = 65_535  # pixels; the limit of JPEG and GIF
# Scans of a progressive JPEG of max_pixels; a smaller one may have more. Cameras write 10.
_SCANS = 20
READS = 1_000_000  # read() calls by Pillow's parser for one file
_ENLARGED = 10  # an image that a transform enlarges may have max_pixels / 10
_MAX_ASPECT = 32  # for an image whose size after the transform is unknown
# A marker that is neither a stuffed byte nor a restart (ITU-T T.81, B.1.1).
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END = 0xD9
TILEWIDTH, TILELENGTH = 322, 323  # TIFF 6.0, section 15

Shape = tuple[int, ...]


class LimitedReader(BytesIO):
    """A file in memory with a limit on reads, because some of Pillow's parsers are Python loops.

    For 20 MB of padding, empty chunks or comments of one byte they would take a minute.

    Raises:
        OSError: there were more than `READS` reads.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > READS:
            raise OSError("the file has too many small parts")
        return super().read(size)


def check_header(image: Image.Image, max_pixels: int) -> None:
    """Refuse an image by its header.

    Args:
        image: opened from a LimitedReader, not loaded.

    Raises:
        InputError: 413 too many pixels, in total, on one side or in a tile of a TIFF; or too many
            scans of a JPEG.
    """
    pixels = image.width * image.height
    what = f"{image.format} image, {image.width} x {image.height}"
    if pixels > max_pixels:
        raise InputError(
            413, f"{what}: more than {max_pixels:,} pixels (handler.max_pixels); send it smaller"
        )
    if max(image.size) > MAX_SIDE:
        raise InputError(413, f"{what}: more than {MAX_SIDE:,} pixels on one side; send it smaller")
    if isinstance(image, TiffImageFile):
        # libtiff decompresses whole tiles, even if the image is smaller.
        try:
            width, height = (int(image.tag_v2.get(tag, 0)) for tag in (TILEWIDTH, TILELENGTH))
        except Exception:  # Pillow parses a tag here, and raises many exceptions
            raise InputError(400, f"{what}: its tile size cannot be read") from None
        if width * height > max_pixels:
            raise InputError(
                413, f"{what}: tiles of {width} x {height}, more than {max_pixels:,} pixels"
            )
    reader = image.fp if isinstance(image, JpegImageFile) else None
    if image.info.get("progressive") and isinstance(reader, LimitedReader):
        # Each scan decodes the whole image, even if it has only a few bytes.
        most = _SCANS * max_pixels // max(pixels, 1)
        if _has_more_scans(reader.getvalue(), reader.tell(), most):
            raise InputError(413, f"{what}: more than {most:,} scans; send it as a baseline JPEG")


def _has_more_scans(data: bytes | bytearray, at: int, most: int) -> bool:
    """Whether more than `most` scans follow the position `at`, after the first scan's header."""
    # There may be tables between scans, so three markers count as one scan.
    for _ in range(3 * most):
        marker = _MARKER.search(data, at)
        if not marker or marker[0][1] == _END:
            return False
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return True


class TransformLimit:
    """Calculates the size of an image during a transform, from its shape.

    The steps run on a tensor without memory (PyTorch's "meta" device), which is exact for every
    step of torchvision. A step that cannot run there ends the calculation; then images with one
    side at least 32 times as long as the other are refused.
    """

    def __init__(self, steps: Sequence[Callable[[Tensor], Tensor]], max_pixels: int) -> None:
        self._steps, self._max_pixels = tuple(steps), max_pixels
        self._sizes = lru_cache(1024)(self._calculate)

    def most_pixels(self, size: tuple[int, int], channels: int) -> int:
        """The most pixels of an image (width, height) before the transform or after a step."""
        width, height = size
        return max(width * height, self._sizes((channels, height, width))[0])

    def check(self, shape: Shape) -> None:
        """Raise InputError 413 if the transform would enlarge the image too much."""
        (_, height, width), (pixels, known) = shape, self._sizes(shape)
        most = self._max_pixels // _ENLARGED
        if pixels > max(height * width, most):
            raise InputError(
                413,
                f"an image of {width} x {height}, which the model's transform enlarges to "
                f"{pixels:,} pixels: at most {most:,} (a tenth of handler.max_pixels); crop it",
            )
        if not known and max(height, width) >= _MAX_ASPECT * min(height, width):
            raise InputError(
                413,
                f"an image of {width} x {height}: one side is at least {_MAX_ASPECT} times the "
                "other, and the size after the model's transform is not known; crop it",
            )

    def _calculate(self, shape: Shape) -> tuple[int, bool]:
        """The most pixels after any step, and whether every step could be calculated."""
        image: Any = torch.empty(shape, dtype=torch.uint8, device="meta")
        most = 0
        for step in self._steps:
            try:
                image = step(image)
                most = max(most, image.shape[-1] * image.shape[-2])
            except Exception:  # a custom step can raise any exception
                return most, False
        return most, True
