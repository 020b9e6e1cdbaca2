"""Differences between archives and between their predictions."""

from __future__ import annotations

import json
import math

import pytest

from vestal.archive.comparing import Comparison
from vestal.archive.diff import Change, Changes, Member, compare
from vestal.inprocess.messages import Response
from vestal.mar.layout import BILL, MANIFEST


def write(folder, *, config="batchSize: 8\nhandler: {top_k: 3}\n", weights=b"one", **bill):
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "m", "modelVersion": "1.0", "handler": "h.py", "configFile": "c.yaml"}
    (folder / MANIFEST).write_text(json.dumps({"createdOn": str(folder), "model": model}))
    (folder / "c.yaml").write_text(config)
    (folder / "model.pt").write_bytes(weights)
    if bill:
        (folder / BILL).write_text(json.dumps(bill))
    return folder


def test_an_archive_equals_itself(tmp_path):
    changes = compare(write(tmp_path / "a"), write(tmp_path / "b"))
    assert changes == Changes()
    assert not changes


def test_files_settings_packages_and_training_are_compared(tmp_path):
    before = write(
        tmp_path / "a",
        engine="torchscript",
        packages={"torch": "2.14"},
        training={"seed": 0, "metrics": {"accuracy": 0.9}},
        files={"model.pt": "x"},
    )
    after = write(
        tmp_path / "b",
        config="batchSize: 4\nhandler: {top_k: 3, precision: bf16}\n",
        weights=b"three",
        engine="exported",
        packages={"torch": "2.15", "pillow": "12"},
        training={"seed": 0, "metrics": {"accuracy": 0.95}},
        files={"model.pt": "y"},
    )
    (before / "old.py").write_bytes(b"12")
    assert compare(before, after) == Changes(
        members=[Member("c.yaml", 33, 50), Member("model.pt", 3, 5), Member("old.py", 2, None)],
        config=[Change("batchSize", 8, 4), Change("handler.precision", None, "bf16")],
        packages=[Change("pillow", None, "12"), Change("torch", "2.14", "2.15")],
        facts=[Change("engine", "torchscript", "exported")],
        training=[Change("metrics.accuracy", 0.9, 0.95)],
    )


def test_files_of_the_same_size_are_compared(tmp_path):
    changes = compare(write(tmp_path / "a"), write(tmp_path / "b", weights=b"two"))
    assert changes.members == [Member("model.pt", 3, 3)]


def answer(value, status=200):
    return Response(status, {}, value if isinstance(value, bytes) else json.dumps(value).encode())


def counted(before, after, tolerance=1e-4):
    found = Comparison()
    found.add("input", before, after, tolerance)
    return found


def difference(before, after, tolerance=1e-4):
    return counted(before, after, tolerance).pairs[0].difference


def top(*pairs):
    return {
        "label": pairs[0][0],
        "probability": pairs[0][1],
        "top": [{"label": label, "probability": share} for label, share in pairs],
    }


def test_labels_and_probabilities_are_compared_by_label():
    before, after = answer(top(("7", 0.6), ("1", 0.4))), answer(top(("1", 0.7), ("7", 0.3)))
    found = counted(before, after)
    assert (found.labels, found.statuses, found.texts) == (1, 0, 0)
    assert found.probability == pytest.approx(0.3)
    assert difference(before, after) == 'answer.label is "1", expected "7"'


def test_a_regressors_prediction_is_a_value():
    found = counted(answer({"prediction": 10.0}), answer({"prediction": 12.5}))
    assert (found.value, found.probability, found.labels) == (2.5, None, 0)


def test_labels_of_torchserves_own_classifiers_are_labels():
    found = counted(answer({"cat": 0.9, "dog": 0.1}), answer({"dog": 0.6, "cat": 0.4}))
    assert (found.labels, found.value) == (1, None)
    assert found.probability == pytest.approx(0.5)
    assert counted(answer({"cat": 0.9}), answer({"dog": 0.8})).labels == 1
    assert counted(answer({"cat": 0.9, "dog": 0.1}), answer({"cat": 0.8, "dog": 0.2})).labels == 0


def test_torchserves_classifiers_are_compared_with_vestals():
    stock = {"7": 0.9, "1": 0.06, "4": 0.02, "2": 0.01}
    same = counted(answer(stock), answer(top(("7", 0.9), ("1", 0.06))))
    assert [pair.difference for pair in same.pairs] == [None]
    assert (same.labels, same.probability) == (0, 0.0)
    other = counted(answer(top(("1", 0.8), ("7", 0.1))), answer(stock))
    assert other.labels == 1
    assert other.probability == pytest.approx(0.8)
    assert "7" in other.pairs[0].difference


def test_labels_of_several_instances_are_compared_one_by_one():
    before = {"predictions": [top(("7", 0.9), ("1", 0.1)), top(("1", 0.9), ("7", 0.1))]}
    after = {"predictions": before["predictions"][::-1]}
    assert counted(answer(before), answer(after)).labels == 1


@pytest.mark.parametrize("odd", [{"predictions": None}, {"predictions": 7}, None, [None]])
def test_unusual_responses_are_compared(odd):
    assert counted(answer(odd), answer(odd)).labels == 0
    assert difference(answer(odd), answer(odd), 0.0) is None
    assert difference(answer(odd), answer({"label": "7"}), 0.0)


def test_huge_numbers_are_compared():
    huge = {"prediction": 10**400}
    assert counted(answer(huge), answer({"prediction": 1.5})).value == math.inf
    assert difference(answer(huge), answer({"prediction": 1.5}), 1.0)
    assert difference(answer(huge), answer(huge), 0.0) is None


def test_nan_is_infinitely_far():
    before = Response(200, {}, b'{"prediction": NaN}')
    assert counted(before, answer({"prediction": 1.0})).value == math.inf
    assert difference(before, answer({"prediction": 1.0}), 1.0)


def test_texts_are_counted_by_input():
    before = {"predictions": [{"text": "a"}, {"text": "b"}]}
    after = {"predictions": [{"text": "c"}, {"text": "d"}]}
    assert counted(answer(before), answer(after)).texts == 1


def test_statuses_and_bytes_are_compared():
    assert counted(answer({}), answer({}, 422)).statuses == 1
    assert difference(answer({}), answer({}, 422), 1.0) == "status is 422, was 200"
    assert difference(answer(b"\xff"), answer(b"\xfe"), 1.0) == "the bytes differ"
    assert difference(answer(b"\xff"), answer(b"\xff"), 0.0) is None


def test_request_ids_and_rounding_are_ignored():
    before = {"prediction": 1.0, "request_id": "a"}
    after = {"prediction": 1.00001, "request_id": "b"}
    assert difference(answer(before), answer(after)) is None
    assert difference(answer(before), answer(after), 1e-6)
