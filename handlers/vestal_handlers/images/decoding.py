"""Decode image files to tensors, for training and serving alike."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from vestal_handlers.errors import InputError, first_line, is_out_of_memory
from vestal_handlers.images.flattening import WHITE, Colour, Mode, flatten
from vestal_handlers.images.frames import has_more_frames
from vestal_handlers.images.limits import LimitedReader, check_header
from vestal_handlers.images.metadata import kind_of, orientation_of, without_metadata
from vestal_handlers.images.pixels import read_pixels
from vestal_handlers.images.plain_png import read_plain_png
from vestal_handlers.images.truncation import with_end_marker
from vestal_handlers.requests.schema import shown

# torchvision 0.29 recommends TorchCodec; users need not do anything.
warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities")
# Pillow warns at half of its limit; max_pixels is checked from the header.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow's other warnings are about metadata; metadata that cannot be read is ignored.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

MAX_PIXELS = 50_000_000
MAX_FRAMES = 1_000
# Not all formats of Pillow: an EPS starts Ghostscript, and the header of an icon may be wrong.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM")
Image.init()
# Pillow seldom refuses these for their metadata, so it is removed only if Pillow does.
_METADATA_SELDOM_REFUSED = ("JPEG", "WEBP", "GIF")
FORMATS = tuple(name for name in _FORMATS if name in Image.OPEN)
_STANDARD = str.maketrans("-_", "+/")  # the URL-safe alphabet of RFC 4648
_READ_MODES = {"L": ImageReadMode.GRAY, "RGB": ImageReadMode.RGB}


@dataclass(frozen=True)
class ImageTransform:
    """The image preprocessing of a model: the colour mode and the steps after decoding.

    Training and serving use the same object, `transform` in the model's `transforms.py`.

    Attributes:
        mode: "L" decodes to one grey channel, "RGB" to three.
        steps: applied in order to the decoded uint8 tensor [C, H, W].
    """

    mode: Mode
    steps: Sequence[Callable[[Tensor], Tensor]]

    @property
    def scale_to(self) -> int | None:
        """The side in pixels that the first step resizes to, if it is a v2.Resize; else None.

        `fast_jpeg` decodes no more pixels than sides of this length need. Of (height, width) it is
        the longer one, so that a rotation by EXIF does not matter.
        """
        first = self.steps[0] if self.steps else None
        return max(first.size) if isinstance(first, v2.Resize) and first.size else None

    def decode(
        self,
        data: bytes | bytearray | list[Any],
        max_pixels: int = MAX_PIXELS,
        fast_jpeg: bool = False,
        max_frames: int = MAX_FRAMES,
        background: Colour = WHITE,
    ) -> Tensor:
        """Decode an image file or nested lists of numbers to a uint8 tensor [C, H, W].

        Raises the errors of `read_image` and `read_pixels`.

        With `fast_jpeg` a JPEG is scaled by 1/2, 1/4 or 1/8 while it is decoded, never below
        `scale_to`; its pixels differ slightly from those in training.
        """
        if isinstance(data, list):
            pixels = read_pixels(data, max_pixels)
            # Pillow has no images of [H, W, 1].
            image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)
            return _as_tensor(image, self.mode, background)
        scale_to = self.scale_to if fast_jpeg else None
        return read_image(data, self.mode, max_pixels, scale_to, max_frames, background)

    def __call__(self, image: Tensor) -> Tensor:
        """Apply the steps to a decoded image, uint8 [C, H, W]; returns the model's input."""
        for step in self.steps:
            image = step(image)
        return image

    def example_input(self) -> Tensor:
        """The model's input for a small black image, for the warm-up."""
        return self(torch.zeros(1 if self.mode == "L" else 3, 64, 64, dtype=torch.uint8))


def read_image(
    data: bytes | bytearray,
    mode: Mode,
    max_pixels: int = MAX_PIXELS,
    scale_to: int | None = None,
    max_frames: int = MAX_FRAMES,
    background: Colour = WHITE,
) -> Tensor:
    """Decode an image file to a uint8 tensor [C, H, W], upright (EXIF), C = 1 ("L") or 3 ("RGB").

    The header is read first, so an image above `max_pixels` is refused before it is decoded.
    torchvision decodes grey and RGB JPEGs (twice as fast), Pillow the other `FORMATS`: PNG,
    palettes, CMYK, 16 bits per channel (scaled to 8), GIF, BMP, TIFF, WebP. Only the first of
    several frames or pages is decoded. Metadata that cannot be read is ignored. A truncated JPEG is
    decoded if it has at least half of its rows, as in browsers; the rest is grey.

    Args:
        scale_to: a JPEG at least twice as large is scaled by 1/2, 1/4 or 1/8 (the factors of
            libjpeg) while it is decoded, to sides of at least this many pixels.
        background: the colour behind a transparent image.

    Raises:
        InputError: 400 empty or corrupt, 413 too many pixels or frames, 415 not an image, or
            pixels of unknown range (32-bit integers, signed, floating-point).
    """
    if not data:
        raise InputError(400, "the image is empty (0 bytes)")
    plain = read_plain_png(data, mode, max_pixels)
    if plain is not None:
        return plain
    kind = kind_of(data)
    image = _open(data, kind, max_pixels)
    what = f"{image.format} image, {image.width} x {image.height}"
    check_header(image, max_pixels)
    if has_more_frames(image, data, max_frames):
        raise InputError(
            413, f"{what}: more than {max_frames:,} frames (handler.max_frames); send one image"
        )
    orientation = orientation_of(image, data, kind)
    try:
        try:
            decoded = _decode(image, data, mode, scale_to, background)
        except (OSError, RuntimeError) as error:
            whole = (
                with_end_marker(data) if kind == "JPEG" and not is_out_of_memory(error) else None
            )
            if whole is None:
                raise
            decoded = _decode(_open(whole, kind, max_pixels), whole, mode, scale_to, background)
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds of exceptions for a corrupt file
        if is_out_of_memory(error):
            raise
        raise InputError(400, f"{what}: cannot be decoded ({_reason(error)})") from None
    return _upright(decoded, orientation)


def image_size(data: bytes | bytearray) -> tuple[int, int]:
    """The width and height in a file's header; (0, 0) if decoding will refuse the file."""
    try:
        return _open(data, kind_of(data), MAX_PIXELS).size
    except InputError:
        return 0, 0


def _open(data: bytes | bytearray, kind: str | None, max_pixels: int) -> Image.Image:
    """Open an image, reading only its header."""
    try:
        if kind in _METADATA_SELDOM_REFUSED:
            with contextlib.suppress(Exception):  # Pillow raises many kinds of exceptions
                return Image.open(LimitedReader(data), formats=FORMATS)
        return Image.open(LimitedReader(without_metadata(data, kind)), formats=FORMATS)
    except Image.DecompressionBombError:
        raise InputError(
            413, f"the image has more than {max_pixels:,} pixels (handler.max_pixels)"
        ) from None
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if not kind:
            raise InputError(
                415, f"not an image that can be read ({len(data):,} bytes): send JPEG or PNG"
            ) from None
        unknown = isinstance(error, UnidentifiedImageError)  # its message is only "cannot identify"
        reason = "its header is broken" if unknown else _reason(error)
        raise InputError(400, f"the {kind} image cannot be decoded ({reason})") from None


def _decode(
    image: Image.Image,
    data: bytes | bytearray,
    mode: Mode,
    scale_to: int | None,
    background: Colour,
) -> Tensor:
    """Decode the pixels in the orientation in which they are stored."""
    full = image.size
    # Never PNG: torchvision 0.29 crashes on a corrupt one, and takes the worker with it.
    if image.format == "JPEG" and image.mode in _READ_MODES:
        if scale_to and image.draft(mode, (scale_to, scale_to)) and image.size != full:
            return _as_tensor(image, mode, background)
        # TorchServe's bytearray is read in place; for bytes, torch warns that they are read-only.
        writable = data if isinstance(data, bytearray) else bytearray(data)
        encoded = torch.frombuffer(writable, dtype=torch.uint8)
        decoded: Tensor = decode_image(encoded, _READ_MODES[mode])
        return decoded
    return _as_tensor(image, mode, background)


def _upright(image: Tensor, orientation: int) -> Tensor:
    """Undo the mirroring and rotation of an EXIF orientation (Exif 3.0, 4.6.5.1.6)."""
    if orientation > 4:
        image = image.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return image.flip(flips) if flips else image


def _as_tensor(image: Image.Image, mode: Mode, background: Colour) -> Tensor:
    array = np.array(flatten(image, mode, background))
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def bytes_of(payload: Any, what: str) -> bytes | bytearray:
    """Return the bytes in a payload: raw, base64 text, a data URL, or `{"b64": text}`.

    Base64 is read in both alphabets (`+/` and the URL-safe `-_`), with or without padding and line
    breaks.

    Args:
        what: names the expected content in messages: "an image".

    Raises:
        InputError: 400 not base64, 415 neither bytes nor text.
    """
    if isinstance(payload, bytes | bytearray):
        return payload
    if isinstance(payload, dict) and set(payload) == {"b64"}:
        payload = payload["b64"]
    if not isinstance(payload, str):
        raise InputError(415, f"expected {what} as bytes or base64 text, got {shown(payload)}")
    text = payload.strip()
    try:
        if text[:5].lower() == "data:":
            head, _, body = text.partition(",")
            unquoted = unquote_to_bytes(body)
            if not head.lower().endswith(";base64"):
                return unquoted
            text = unquoted.decode("ascii")
        digits = "".join(text.split()).rstrip("=").translate(_STANDARD)
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            400, f"expected {what} as bytes or base64 text; this text is not base64 ({error})"
        ) from None


def _reason(error: BaseException) -> str:
    # Messages of torchvision begin with a source file of its build.
    return re.sub(r"^.*\.cpp:\d+, ", "", first_line(error))
