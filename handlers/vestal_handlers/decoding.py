"""The one place where bytes from outside become samples; training and serving both come here."""

from __future__ import annotations

import base64
import binascii
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from vestal_handlers.errors import InputError

# torchvision 0.29 announces that TorchCodec will take over; nothing for a user to act on.
warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities")
# Pillow warns at half of its limit; ours is checked from the header.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Mode = Literal["L", "RGB"]
MAX_PIXELS = 50_000_000
_READ_MODES = {"L": ImageReadMode.GRAY, "RGB": ImageReadMode.RGB}


@dataclass(frozen=True)
class ImageTransform:
    """A model's image preprocessing, whole: how to decode and what to do then.

    The same object trains and serves: a model's `transforms.py` makes it once, as `transform`.

    Attributes:
        mode: "L" decodes to one grey channel, "RGB" to three.
        steps: applied in order to the decoded uint8 tensor [C, H, W].
    """

    mode: Mode
    steps: Sequence[Callable[[Tensor], Tensor]]

    def decode(self, data: bytes | bytearray, max_pixels: int = MAX_PIXELS) -> Tensor:
        """An encoded image becomes a uint8 tensor [C, H, W]; see `read_image` for its errors."""
        return read_image(data, self.mode, max_pixels)

    def __call__(self, image: Tensor) -> Tensor:
        """A decoded image, uint8 [C, H, W], becomes the model's input."""
        for step in self.steps:
            image = step(image)
        return image

    def blank(self) -> Tensor:
        """The model's input for a small black image: what a warm-up runs."""
        return self(torch.zeros(1 if self.mode == "L" else 3, 64, 64, dtype=torch.uint8))


def read_image(data: bytes | bytearray, mode: Mode, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decodes an image file to a uint8 tensor [C, H, W], upright (EXIF), C = 1 ("L") or 3 ("RGB").

    The header is read first, so an image past `max_pixels` costs nothing. Plain JPEG and PNG go
    to torchvision (twice as fast), everything else that Pillow knows to Pillow: palettes, CMYK,
    16 bits a channel (scaled to 8), GIF, BMP, TIFF, WebP. Transparency is dropped.

    Raises:
        InputError: 400 empty or corrupt, 413 too many pixels, 415 not an image.
    """
    if not data:
        raise InputError(400, "the image is empty (0 bytes)")
    image = _open(data, max_pixels)
    what = f"{image.format} image, {image.width} x {image.height}"
    if image.width * image.height > max_pixels:
        raise InputError(
            413, f"{what}: more than {max_pixels:,} pixels (handler.max_pixels); send it smaller"
        )
    try:
        if _is_plain(image, data):
            encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            decoded: Tensor = decode_image(encoded, _READ_MODES[mode], apply_exif_orientation=True)
            return decoded
        return _read_with_pillow(image, mode)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything for a corrupt file
        raise InputError(400, f"{what}: cannot be decoded ({_first_line(error)})") from None


def _open(data: bytes | bytearray, max_pixels: int) -> Image.Image:
    """Reads the header only."""
    try:
        return Image.open(BytesIO(data))
    except Image.DecompressionBombError:
        raise InputError(
            413, f"the image has more than {max_pixels:,} pixels (handler.max_pixels)"
        ) from None
    except UnidentifiedImageError:
        raise InputError(
            415, f"not an image that can be read ({len(data):,} bytes): send JPEG or PNG"
        ) from None
    except Exception as error:
        raise InputError(400, f"the image cannot be decoded ({_first_line(error)})") from None


def _is_plain(image: Image.Image, data: bytes | bytearray) -> bool:
    if image.mode not in _READ_MODES:
        return False
    # Byte 24 of a PNG is its bit depth (PNG specification, 11.2.2).
    return image.format == "JPEG" or (image.format == "PNG" and data[24] == 8)


def _read_with_pillow(image: Image.Image, mode: Mode) -> Tensor:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16 bits at 255 instead of scaling them.
        scaled = np.clip(np.asarray(image).astype(np.float64) / 257 + 0.5, 0, 255)
        image = Image.fromarray(scaled.astype(np.uint8))
    elif image.mode == "F":
        raise InputError(415, "an image of floating-point pixels has no known range: send 8 bits")
    array = np.array(image.convert(mode))
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()


def bytes_of(payload: Any, what: str) -> bytes | bytearray:
    """The bytes in a payload: raw, base64 text, a data URL, or `{"b64": text}`.

    Args:
        what: the kind that was expected ("an image"), for the message.

    Raises:
        InputError: 400 not base64, 415 something else.
    """
    if isinstance(payload, bytes | bytearray):
        return payload
    if isinstance(payload, dict) and set(payload) == {"b64"}:
        payload = payload["b64"]
    if not isinstance(payload, str):
        raise InputError(415, f"expected {what} as bytes or base64 text, got {_json_kind(payload)}")
    text = payload.strip()
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            400, f"expected {what} as bytes or base64 text; this text is not base64 ({error})"
        ) from None


def _json_kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    # torchvision's own begin with the source file of their build.
    return re.sub(r"^.*\.cpp:\d+, ", "", text.splitlines()[0])[:200]
