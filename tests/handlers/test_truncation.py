"""A truncated JPEG is decoded as in a browser if most of it is present, else refused."""

from __future__ import annotations

import pytest
import torch
from imaging import encoded, seven
from PIL import Image, ImageFile
from torchvision.transforms import v2

from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import ImageTransform, read_image


@pytest.fixture(scope="module")
def photo():
    """A real photo, 427 rows of 640 pixels."""
    from sklearn.datasets import load_sample_images

    return Image.fromarray(load_sample_images().images[0])


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (28, 28), (56, 40)])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_its_end_marker_is_complete(size, mode, options, cut):
    data = encoded(seven(size).convert(mode), "JPEG", **options)
    for kind in (bytes, bytearray):  # TorchServe gives a bytearray
        assert torch.equal(read_image(kind(data[:-cut]), "RGB"), read_image(data, "RGB"))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_the_rows_before_the_cut_are_right_and_the_rest_is_grey(photo, mode):
    data = encoded(photo.convert(mode), "JPEG")
    whole, cut = (read_image(each, "L").int() for each in (data, data[: len(data) * 3 // 4]))
    same = (whole == cut).all(dim=2)[0]
    rows = int(same.int().cumprod(0).sum())  # from the top
    assert len(whole[0]) > rows > len(whole[0]) // 2
    assert cut[0, -8:].unique().numel() == 1


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_with_less_than_half_of_its_rows_is_400(photo, mode, share):
    data = encoded(photo.convert(mode), "JPEG")
    with pytest.raises(InputError) as refused:
        read_image(data[: int(len(data) * share)], "RGB")
    assert refused.value.status == 400
    assert "640 x 427: cannot be decoded" in refused.value.message


def test_a_progressive_jpeg_needs_its_first_scans(photo):
    data = encoded(photo, "JPEG", progressive=True)
    whole = read_image(data, "RGB").float()
    assert (read_image(data[: len(data) // 2], "RGB").float() - whole).abs().mean() < 10
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    for cut in (first + 100, second - 1, second + 100):
        with pytest.raises(InputError) as refused:
            read_image(data[:cut], "RGB")
        assert refused.value.status == 400


@pytest.mark.parametrize("fast_jpeg", [True, False])
def test_a_truncated_jpeg_is_scaled_while_it_is_decoded(photo, fast_jpeg):
    transform = ImageTransform("RGB", (v2.Resize(100),))
    data = encoded(photo, "JPEG")
    whole, cut = (transform.decode(each, fast_jpeg=fast_jpeg) for each in (data, data[:-2]))
    assert torch.equal(whole, cut)


def test_decoding_does_not_change_settings_of_pillow(photo):
    read_image(encoded(photo, "JPEG")[:-2], "RGB")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_other_formats_that_are_cut_short_are_400(kind):
    data = encoded(seven((60, 60)).convert("RGB"), kind)
    for cut in (len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(InputError) as refused:
            read_image(data[:cut], "L")
        assert refused.value.status == 400


def status(data):
    try:
        read_image(data, "RGB")
    except InputError as refused:
        return refused.status
    return 200


def test_a_jpeg_cut_anywhere_is_decoded_or_refused(photo):
    for options in ({}, {"progressive": True}):
        data = encoded(photo.resize((48, 40)), "JPEG", **options)
        statuses = [status(data[:cut]) for cut in range(2, len(data) + 1)]
        assert set(statuses) == {200, 400}
        enough = statuses.index(200)
        # Padding may be decoded as a few more pixels; a cut between two scans is no error.
        assert statuses[enough:].count(400) <= 2
