"""The sample of an archive, and how a prediction is compared with it."""

from __future__ import annotations

import json
import zipfile

import pytest

from vestal.errors import VestalError
from vestal.mar.sample import find_difference, read_sample, tolerance_of


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"label": "7", "top": [0.9, 0.1]}, {"top": [0.90005, 0.09995], "label": "7"}),
        ([1, 2.0, None, True], [1.0, 2, None, True]),
        ("seven", "seven"),
    ],
)
def test_equal_predictions_within_the_tolerance(expected, actual):
    assert find_difference(expected, actual, 1e-4) is None


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        (
            {"top": [{"p": 0.9}]},
            {"top": [{"p": 0.8}]},
            "answer.top[0].p is 0.8, expected 0.9 (tolerance 0.0001)",
        ),
        ({"label": "7"}, {"label": "8"}, 'answer.label is "8", expected "7"'),
        ({"label": "7"}, {}, "answer has no 'label'"),
        ({}, {"code": 400}, "answer has 'code', which was not expected"),
        ([1, 2], [1], "answer has 1 items, expected 2"),
        (1, True, "answer is true, expected 1"),
        (1, "1", 'answer is "1", expected 1'),
        ([1], {"0": 1}, 'answer is {"0": 1}, expected [1]'),
        (0.5, float("nan"), "answer is nan, expected 0.5 (tolerance 0.0001)"),
        ("a", "b" * 100, f'answer is "{"b" * 76}..., expected "a"'),
    ],
)
def test_the_first_difference_is_reported(expected, actual, difference):
    assert find_difference(expected, actual, 1e-4) == difference


def test_a_sample_is_read_from_its_archive(tmp_path):
    description = {"input": "a.png", "content_type": "image/png", "answer": {"label": "7"}}
    archive = pack(tmp_path, {"sample/sample.json": json.dumps(description), "sample/a.png": "x"})
    sample = read_sample(archive)
    assert sample is not None
    assert (sample.input, sample.name, sample.content_type) == (b"x", "a.png", "image/png")
    assert (sample.answer, sample.tolerance) == ({"label": "7"}, 1e-4)


def test_an_archive_without_a_sample(tmp_path):
    assert read_sample(pack(tmp_path, {"MAR-INF/MANIFEST.json": "{}"})) is None


@pytest.mark.parametrize("description", ["{", "[]", '{"input": "gone.png"}'])
def test_an_invalid_sample_is_an_error_that_names_the_archive(tmp_path, description):
    archive = pack(tmp_path, {"sample/sample.json": description})
    with pytest.raises(VestalError, match=r"sample/sample.json in .*a\.mar cannot be read"):
        read_sample(archive)


def pack(folder, files):
    archive = folder / "a.mar"
    with zipfile.ZipFile(archive, "w") as content:
        for name, text in files.items():
            content.writestr(name, text)
    return archive


def top(*pairs):
    return {"top": [{"label": label, "probability": share} for label, share in pairs]}


def test_nearly_equal_labels_may_be_in_either_order():
    expected, actual = top(("a", 0.50004), ("b", 0.49996)), top(("b", 0.50001), ("a", 0.49999))
    assert find_difference(expected, actual) is None
    assert "probability is" in find_difference(expected, top(("b", 0.6), ("a", 0.4)))
    assert "has no 'b'" in find_difference(expected, top(("a", 0.50004), ("c", 0.49996)))


def test_predictions_for_several_instances_keep_their_order():
    first, second = ({"label": label, "probability": 0.9, **top()} for label in "ab")
    assert find_difference([first, second], [second, first])


def test_the_tolerance_is_larger_for_engines_other_than_torch():
    assert tolerance_of("fp32", "eager") < tolerance_of("fp32", "onnx")
    assert tolerance_of("bf16", "eager") == tolerance_of("bf16", "onnx")
