"""JPEGs are scaled while they are decoded, if requested, and never below the model's input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from imaging import encoded
from PIL import Image
from torchvision.transforms import v2

from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import ImageTransform


def transform(*steps):
    return ImageTransform("RGB", steps)


RESNET = transform(
    v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True)
)


@pytest.fixture(scope="module")
def photo():
    """A real photo, 427 rows of 640 pixels."""
    from sklearn.datasets import load_sample_images

    return Image.fromarray(load_sample_images().images[0])


def jpeg(photo, width, height, **options):
    image = photo.resize((width, height), Image.Resampling.BICUBIC)
    return encoded(image, "JPEG", quality=90, **options)


@pytest.mark.parametrize(
    ("steps", "side"),
    [
        ((v2.Resize(256),), 256),
        ((v2.Resize((28, 40)),), 40),
        ((v2.CenterCrop(224), v2.Resize(32)), None),  # the crop counts in pixels of the file
        ((v2.ToDtype(torch.float32),), None),
        ((), None),
    ],
)
def test_scale_to_is_the_side_of_the_first_resize(steps, side):
    assert transform(*steps).scale_to == side


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((720, 720), (360, 360)),
        ((1440, 1440), (360, 360)),
        ((4096, 2200), (512, 275)),
        ((2048, 2048), (256, 256)),
        ((512, 511), (512, 511)),  # half of it would be too little
        ((4000, 300), (4000, 300)),
        ((64, 64), (64, 64)),
    ],
)
def test_a_jpeg_is_scaled_down_as_far_as_the_model_allows(photo, size, decoded):
    data = jpeg(photo, *size)
    assert tuple(RESNET.decode(data, fast_jpeg=True).shape) == (3, decoded[1], decoded[0])
    assert tuple(RESNET.decode(data).shape) == (3, size[1], size[0])


def test_images_that_are_not_scaled_are_unchanged(photo):
    small = jpeg(photo, 400, 300)
    png = encoded(photo.resize((720, 720)), "PNG")
    unscaled = transform(v2.CenterCrop(224))
    for steps, data in ((RESNET, small), (RESNET, png), (unscaled, jpeg(photo, 720, 720))):
        assert torch.equal(steps.decode(data, fast_jpeg=True), steps.decode(data))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_scaled_jpeg_is_upright_and_nearly_the_same(photo, orientation, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photo, 960, 640, exif=exif)
    steps = dataclasses.replace(RESNET, mode=mode)
    fast, plain = (steps(steps.decode(data, fast_jpeg=fast)) for fast in (True, False))
    assert fast.shape == plain.shape
    assert (fast - plain).abs().mean() < 0.03


def test_a_scaled_grey_jpeg_becomes_three_channels(photo):
    data = jpeg(photo.convert("L"), 960, 640)
    fast = RESNET.decode(data, fast_jpeg=True)
    assert tuple(fast.shape) == (3, 320, 480)
    assert torch.equal(fast[0], fast[2])


def test_limits_and_errors_do_not_depend_on_fast_jpeg(photo):
    data = jpeg(photo, 960, 640)
    for image, status in ((data, 413), (data[:3000], 400)):
        limit = 1000 if status == 413 else 10**7
        with pytest.raises(InputError) as refused:
            RESNET.decode(image, limit, fast_jpeg=True)
        assert refused.value.status == status
