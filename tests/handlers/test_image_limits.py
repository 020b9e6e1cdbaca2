"""The size of an image is checked before it is decoded and before a transform enlarges it."""

from __future__ import annotations

import base64
import struct

import hostile
import pytest
import torch
from folders import as_json, ask, write_archive
from imaging import encoded, seven
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.errors import InputError
from vestal_handlers.images import limits
from vestal_handlers.images.decoding import read_image
from vestal_handlers.images.limits import TransformLimit

RESNET = (v2.Resize(256, antialias=True), v2.CenterCrop(224))


TRANSFORMS = """
import torch
from torchvision.transforms import v2
from vestal_handlers.images.decoding import ImageTransform

transform = ImageTransform("L", (v2.Resize(64, antialias=True), v2.ToDtype(torch.float32)))
"""


WIDE = hostile.png(8000, 1)


class Darkness(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.flatten(1).mean(1), -x.flatten(1).mean(1)], 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = write_archive(
        tmp_path_factory.mktemp("images"),
        "image_classifier",
        Darkness(),
        options={"max_pixels": 1_000_000, "max_request_pixels": 2_000_000, "threads": 2},
        labels=["bright", "dark"],
        transforms=TRANSFORMS,
    )
    with LoadedArchive(folder) as loaded:
        yield loaded


def test_a_narrow_image_that_the_transform_enlarges_is_refused(images):
    answer = hostile.predict_hostile(images, Input.raw(WIDE), encoded(seven()))
    assert answer.status == 413
    assert "transform enlarges to 32,768,000 pixels: at most 100,000" in answer.json()["message"]
    forty = as_json({"instances": [base64.b64encode(WIDE).decode()] * 40})
    assert hostile.predict_hostile(images, forty, encoded(seven())).status == 413


def test_a_narrow_array_that_the_transform_enlarges_is_refused(images):
    assert hostile.predict_hostile(images, as_json([[0] * 8000]), encoded(seven())).status == 413


def test_pixels_of_one_request_are_counted_in_order(images):
    large, small = hostile.png(900, 900), hostile.png(100, 100)
    sent = [large, large, large, small, large]
    form = Input.form(**{f"f{number}": (data, "image/png") for number, data in enumerate(sent)})
    answer = ask(images, form)
    codes = [one.get("code", 200) for one in answer.json()["predictions"]]
    assert (answer.status, codes) == (200, [200, 200, 413, 413, 413])
    assert "2,000,000 pixels in one request" in answer.json()["predictions"][2]["message"]


def test_pixels_after_the_transform_count_for_the_request(images):
    """1000 x 50 pixels become 1280 x 64."""
    narrow = base64.b64encode(hostile.png(1000, 50)).decode()
    answer = ask(images, as_json({"instances": [narrow] * 60}))
    codes = [one.get("code", 200) for one in answer.json()["predictions"]]
    assert codes == [200] * 24 + [413] * 36


def test_one_side_of_an_image_has_a_limit():
    with pytest.raises(InputError, match="70000 x 1: more than 65,535 pixels on one side"):
        read_image(hostile.png(70_000, 1), "L")
    with pytest.raises(InputError, match="1 x 70000: more than 65,535 pixels on one side"):
        read_image(hostile.png(1, 70_000), "L")


@pytest.mark.parametrize(
    ("steps", "shape", "pixels"),
    [
        (RESNET, (3, 1, 8000), 2_048_000 * 256),
        (RESNET, (3, 500, 375), 341 * 256),
        (RESNET, (3, 8000, 1), 2_048_000 * 256),
        ((v2.Resize((28, 28)),), (1, 1, 8000), 28 * 28),
        ((v2.Resize(255, max_size=700),), (3, 100, 1000), 700 * 70),
        ((v2.Resize(None, max_size=100),), (3, 400, 200), 100 * 50),
        ((v2.RandomResizedCrop(224),), (3, 1, 8000), 224 * 224),
        ((v2.Compose(RESNET),), (3, 500, 375), 224 * 224),
        ((v2.ToDtype(torch.float32, scale=True), v2.Resize(256)), (1, 2, 64), 8192 * 256),
        ((v2.Pad(50), v2.Grayscale(3)), (3, 28, 28), 128 * 128),
        ((), (1, 28, 28), 0),
    ],
)
def test_the_size_after_a_transform_is_calculated(steps, shape, pixels):
    limit = TransformLimit(steps, 10**9)
    assert limit._calculate(shape) == (pixels, True)


def test_an_enlarged_image_may_have_a_tenth_of_max_pixels():
    limit = TransformLimit(RESNET, 50_000_000)
    limit.check((3, 1, 76))  # 19,456 x 256 are 4,980,736
    with pytest.raises(InputError, match="enlarges to 5,046,272 pixels: at most 5,000,000"):
        limit.check((3, 1, 77))
    limit.check((3, 7000, 7000))  # becomes smaller


def test_a_step_that_cannot_be_calculated_refuses_narrow_images():
    limit = TransformLimit([lambda image: torch.from_numpy(image.numpy().copy())], 50_000_000)
    limit.check((3, 10, 319))
    with pytest.raises(InputError, match=r"32 times the\s+other"):
        limit.check((3, 10, 320))


def test_scans_of_a_progressive_jpeg_are_counted(monkeypatch):
    assert read_image(hostile.progressive(200, 3), "L").shape == (1, 200, 200)
    with pytest.raises(InputError, match="200 x 200: more than 25 scans"):
        read_image(hostile.progressive(200, 80), "L", max_pixels=50_000)
    # Tables between the scans do not hide them.
    image = hostile.progressive(200, 80)
    hidden = image.replace(b"\xff\xda", b"\xff\xfe\0\4\xff\xd9\xff\xda")
    with pytest.raises(InputError, match="more than 25 scans"):
        read_image(hidden, "L", max_pixels=50_000)


def test_a_tile_that_is_larger_than_its_image_is_refused():
    assert read_image(hostile.tiled(64), "L").shape == (1, 16, 16)
    with pytest.raises(InputError, match="16 x 16: tiles of 1024 x 1024, more than 1,000,000"):
        read_image(hostile.tiled(1024), "L", max_pixels=1_000_000)
    width = struct.pack("<HHII", 322, 4, 1, 64)
    corrupt = hostile.tiled(64).replace(width, struct.pack("<HHII", 322, 2, 3, 64))
    with pytest.raises(InputError, match="its tile size cannot be read"):
        read_image(corrupt, "L")


@pytest.mark.parametrize("kind", hostile.PIECES)
def test_a_file_in_too_many_pieces_is_refused(kind, monkeypatch):
    monkeypatch.setattr(limits, "READS", 5_000)
    with pytest.raises(InputError) as refusal:
        read_image(hostile.PIECES[kind](20_000), "L")
    assert refusal.value.status in (400, 415)


def test_describe_lists_the_limits(images):
    limits = images.describe()["limits"]
    assert limits["max_json_bytes"] == 10_000_000
    assert limits["max_values"] == 2_000_000
    assert limits["max_request_pixels"] == 2_000_000


def test_an_image_that_the_transform_makes_smaller_is_predicted(images):
    photo = encoded(Image.new("L", (900, 1000)), "JPEG")
    assert ask(images, Input.raw(photo)).status == 200
