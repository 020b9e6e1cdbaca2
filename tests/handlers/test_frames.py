"""Files of several frames: only the first is decoded, and too many are refused."""

from __future__ import annotations

import struct
import time
from io import BytesIO

import numpy as np
import pytest
import torch
from imaging import encoded, seven
from PIL import Image

from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import read_image
from vestal_handlers.images.frames import has_more_frames

LOSSLESS = {"GIF": {}, "TIFF": {}, "PNG": {}, "WEBP": {"lossless": True}}


def animated(kind: str, frames: int) -> bytes:
    """A file whose first frame is `seven()`; all frames differ."""
    others = []
    for number in range(1, frames):
        array = np.array(seven())
        array[number % 28, number // 28] ^= 255
        others.append(Image.fromarray(array))
    return encoded(seven(), kind, save_all=True, append_images=others, **LOSSLESS[kind])


@pytest.mark.parametrize("kind", LOSSLESS)
def test_only_the_first_frame_is_decoded(kind):
    still = torch.from_numpy(np.array(seven())[None])
    assert torch.equal(read_image(animated(kind, 5), "L"), still)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("frames", [1, 2, 7, 20])
def test_the_number_of_frames_is_that_of_pillow(kind, frames):
    data = animated(kind, frames)
    assert getattr(Image.open(BytesIO(data)), "n_frames", 1) == frames
    for most in (1, frames - 1, frames, frames + 1):
        if most:
            more = has_more_frames(Image.open(BytesIO(data)), data, most)
            assert more == (frames > most), most


@pytest.mark.parametrize("kind", LOSSLESS)
def test_too_many_frames_are_refused_with_the_limit(kind):
    data = animated(kind, 8)
    assert read_image(data, "L", max_frames=8).shape == (1, 28, 28)
    with pytest.raises(InputError) as refused:
        read_image(data, "L", max_frames=7)
    assert refused.value.status == 413
    assert f"{kind} image, 28 x 28: more than 7 frames (handler.max_frames)" in str(refused.value)


def gif_bomb(frames: int, side: int = 4000) -> bytes:
    """A GIF of many frames of `side` x `side` pixels with a few bytes each."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00"
    coloured = frame[:9] + b"\x80" + bytes(6) + frame[10:]
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    return head + b"\x21\xfe\x03abc\x00" + coloured + frame * (frames - 1) + b";"


def test_a_file_of_many_frames_is_refused_before_any_is_decoded():
    data = gif_bomb(1_000_000)
    assert Image.open(BytesIO(gif_bomb(3))).n_frames == 3
    start = time.perf_counter()
    with pytest.raises(InputError, match="more than 1,000 frames"):
        read_image(data, "L")
    # Decoding one such frame takes longer.
    assert time.perf_counter() - start < 0.5


def test_a_file_that_ends_inside_a_frame_is_counted_up_to_its_end():
    data = gif_bomb(3)
    for length in range(20, len(data)):
        assert not has_more_frames(Image.open(BytesIO(data)), data[:length], 3)


def test_only_image_formats_are_opened():
    """Pillow would start Ghostscript for an EPS, and believe the header of an icon."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for data in (script, encoded(seven(), "ICO")):
        with pytest.raises(InputError) as refused:
            read_image(data, "L")
        assert refused.value.status == 415
