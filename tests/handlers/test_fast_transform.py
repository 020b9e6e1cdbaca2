"""Images take a shorter way through decoding and the transform, to the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imaging import encoded, png, seven
from PIL import Image
from torchvision.transforms import v2

from vestal_handlers import ImageTransform
from vestal_handlers.errors import InputError
from vestal_handlers.images import decoding
from vestal_handlers.images.fast_transform import FastTransform
from vestal_handlers.images.plain_png import read_plain_png

MODES = ("L", "RGB", "RGBA", "LA", "P", "1", "I;16")
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
LIMIT = 1_000


@st.composite
def files(draw: st.DrawFn) -> bytearray:
    """Image files in PNG, most of them plain, some with metadata, some broken."""
    width, height = draw(SIZES)
    stored = draw(st.sampled_from(MODES))
    pixels = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 256, (height, width, 4))
    image = Image.fromarray(pixels.astype(np.uint8))
    image = image.convert("L").convert("I;16") if stored == "I;16" else image.convert(stored)
    options: dict[str, Any] = {"compress_level": draw(st.sampled_from([0, 6]))}
    if draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(0, 9))
        options["exif"] = exif
    if stored in ("L", "RGB") and draw(st.integers(0, 4)) == 0:
        options["transparency"] = 9 if stored == "L" else (9, 9, 9)
    data = bytearray(encoded(image, **options))
    damage = draw(st.sampled_from(["none", "none", "byte", "cut", "more"]))
    if damage == "byte":
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    elif damage == "cut":
        del data[draw(st.integers(1, len(data) - 1)) :]
    elif damage == "more":
        data += b"trailing bytes"
    return data


def outcome(data: bytearray, mode: Any) -> Any:
    """The pixels, or the status and message of the error."""
    try:
        return decoding.read_image(data, mode, max_pixels=LIMIT).tolist()
    except InputError as error:
        return error.status, error.message


@settings(max_examples=150, deadline=None)
@given(files(), st.sampled_from(["L", "RGB"]))
def test_a_plain_png_gives_what_pillows_reader_gives(data, mode):
    found = outcome(data, mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "read_plain_png", lambda *_: None)
        assert found == outcome(data, mode)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("stored", ["L", "RGB"])
def test_a_png_of_a_grey_or_colour_image_is_plain(stored, mode):
    assert read_plain_png(encoded(seven().convert(stored)), mode, LIMIT) is not None


def test_other_pngs_are_left_to_pillows_reader():
    exif = Image.Exif()
    exif[0x0112] = 6
    others = [
        encoded(seven().convert("P")),
        encoded(seven(), exif=exif),
        encoded(seven(), transparency=0),
        encoded(seven((32, 32))),  # above the limit of this test
        png(np.zeros((4, 4)), 16, 0),
        encoded(seven())[:-1],
        b"",
    ]
    assert [read_plain_png(data, "L", LIMIT) for data in others] == [None] * len(others)


def steps_of(mode: str, resize: Any) -> tuple[Any, ...]:
    channels = 1 if mode == "L" else 3
    means, deviations = (0.4914, 0.4822, 0.4465)[:channels], (0.2023, 0.1994, 0.2010)[:channels]
    return (
        v2.Resize(resize, antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(means, deviations),
    )


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["L", "RGB"]),
    size=SIZES,
    resize=st.sampled_from([28, (28, 28), (20, 28)]),
    seed=st.integers(0, 999),
)
def test_a_small_image_is_transformed_to_the_same_bits(mode, size, resize, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (*reversed(size), 1 if mode == "L" else 3)
    image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8).permute(2, 0, 1)
    transform = ImageTransform(mode=mode, steps=steps_of(mode, resize))
    if isinstance(resize, int) and max(size) > 20 * min(size):
        return  # resized to megapixels
    found = FastTransform(transform)(image)
    assert torch.equal(found, transform(image))
    assert found.dtype == torch.float32


class Doubled(ImageTransform):
    def __call__(self, image):
        return super().__call__(image) * 2


@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform("L", ()),
        ImageTransform("L", [v2.ToDtype(torch.float32, scale=True)]),
        ImageTransform("L", [v2.ToDtype(torch.bfloat16, scale=True)]),  # NumPy has no such type
        ImageTransform("L", [v2.Normalize((0.5,), (0.5,))]),  # an error: the image is uint8
        ImageTransform("L", [v2.Resize((28, 28)), v2.RandomHorizontalFlip(1.0)]),
        ImageTransform("L", [v2.CenterCrop(8), v2.ToDtype(torch.float32)]),
        # Channels appear, or the values are no bytes, before the last steps.
        ImageTransform("L", [v2.ToDtype(torch.float32), v2.Normalize((0.1,) * 3, (0.2,) * 3)]),
        ImageTransform("L", [v2.Grayscale(3), v2.ToDtype(torch.float32, scale=True)]),
        ImageTransform("L", [lambda image: image.double() / 7, v2.ToDtype(torch.float32)]),
        Doubled("L", steps_of("L", 28)),
    ],
)
def test_any_transform_gives_the_same_result(transform):
    def result(way: Any) -> Any:
        try:
            return way(torch.arange(784, dtype=torch.int32).to(torch.uint8).view(1, 28, 28))
        except TypeError as error:
            return str(error)

    expected, found = result(transform), result(FastTransform(transform))
    assert type(found) is type(expected)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype


CONVERT = v2.ToDtype(torch.float32, scale=True)


@pytest.mark.parametrize(
    "steps",
    [
        steps_of("RGB", 301),
        steps_of("RGB", 300)[1:],
        [CONVERT],
        [CONVERT, v2.Normalize((0.5,), (0.2,))],
        [CONVERT, v2.ToDtype(torch.float16), v2.Normalize((0.5,) * 3, (0.2,) * 3)],
    ],
)
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_large_image_is_transformed_to_the_same_bits(steps, interleaved):
    image = torch.randint(0, 256, (3, 300, 300), dtype=torch.uint8)
    if interleaved:  # as torchvision decodes JPEGs
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    before = image.clone()
    transform = ImageTransform("RGB", steps)
    found = FastTransform(transform)(image)
    assert torch.equal(found, transform(image))
    assert torch.equal(image, before)
    assert found.is_contiguous()


def test_a_grey_image_becomes_three_channels_in_the_last_step():
    image = torch.randint(0, 256, (1, 300, 300), dtype=torch.uint8)
    transform = ImageTransform("L", [CONVERT, v2.Normalize((0.1,) * 3, (0.2,) * 3)])
    found = FastTransform(transform)(image)
    assert found.shape == (3, 300, 300)
    assert torch.equal(found, transform(image))
