"""Images as nested lists of numbers: their pixels, and the position of an error."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imaging import encoded, seven
from PIL import Image

from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import ImageTransform, read_image
from vestal_handlers.images.pixels import PIXELS_SCHEMA, read_pixels

NAN = float("nan")


def photo(mode):
    grey = np.array(seven((40, 28)))
    channels = [grey, 255 - grey, grey // 2, 255 - grey // 2][: 4 if mode == "RGBA" else 3]
    return Image.fromarray(grey if mode == "L" else np.stack(channels, axis=2))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("sent", ["L", "RGB", "RGBA"])
def test_an_array_is_decoded_like_a_png_of_its_pixels(sent, mode):
    image = photo(sent)
    decoded = ImageTransform(mode, ()).decode(np.asarray(image).tolist())
    assert torch.equal(decoded, read_image(encoded(image), mode))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the image must be H x W, or H x W x C with 1, 3 or 4 channels, got 0"),
        ([[], []], "with 1, 3 or 4 channels, got 2 x 0"),
        ([1, 2], "row 0 of the image must be a list, got 1"),
        ([[1], None], "row 1 of the image must be a list, got null"),
        ([[1, 2], [3]], "row 1 of the image has 1 pixels, row 0 has 2"),
        ([[1, [2]]], "got 1 x 2, with pixels of different lengths"),
        ([[[1], [1, 2, 3]]], "got 1 x 2, with pixels of different lengths"),
        ([[[1, 2]]] * 2, "with 1, 3 or 4 channels, got 2 x 1 x 2"),
        (
            np.zeros((3, 8, 9)).tolist(),
            "got 3 x 8 x 9; channels come last: send tensor.permute(1, 2, 0)",
        ),
        (
            np.zeros((2, 8, 9, 3)).tolist(),
            'got 2 x 8 x 9 x 3; send several images as {"instances": [image, ...]}',
        ),
        ([[0, "7"]], 'item [0][1] of the image must be an integer, got a string "7"'),
        ([[0, 0], [0.5, 0]], "item [1][0] of the image must be an integer, got 0.5"),
        ([[[0, 0, True]]], "item [0][0][2] of the image must be an integer, got true"),
        ([[None]], "item [0][0] of the image must be an integer, got null"),
        ([[NAN]], "item [0][0] of the image must be an integer, got NaN"),
        ([[256]], "item [0][0] of the image must be at most 255, got 256"),
        ([[-1]], "item [0][0] of the image must be at least 0, got -1"),
        ([[10**400]], "must be at most 255, got an integer of many digits"),
    ],
)
def test_an_array_that_is_not_an_image_is_refused_with_the_reason(rows, message):
    with pytest.raises(InputError) as refused:
        read_pixels(rows, 10_000)
    assert refused.value.status == 422
    assert refused.value.message.endswith(message)


def test_pixels_are_counted_before_they_are_checked():
    with pytest.raises(InputError) as refused:
        read_pixels([["x"] * 100] * 101, 10_000)
    assert refused.value.status == 413
    assert "101 rows of 100: more than 10,000 pixels" in refused.value.message


VALUES = st.integers(-1, 256) | st.sampled_from([0.5, 3.0, True, None, "1", [1], [1, 2, 3]])
ARRAYS = st.lists(st.lists(VALUES | st.lists(VALUES, max_size=4), max_size=3), max_size=3)


@given(ARRAYS)
def test_arrays_are_accepted_as_by_the_schema_except_unequal_rows(rows):
    jsonschema = pytest.importorskip("jsonschema")
    fits = jsonschema.Draft202012Validator(PIXELS_SCHEMA).is_valid(rows)
    equal = len({len(row) for row in rows}) == 1
    try:
        read_pixels(rows, 10_000)
    except InputError:
        assert not (fits and equal)
    else:
        assert fits
        assert equal


def test_the_schema_is_valid():
    json.dumps(PIXELS_SCHEMA, allow_nan=False)
