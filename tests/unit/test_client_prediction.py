"""A prediction holds a Python value and the facts of its call."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from vestal import Prediction
from vestal.client.flow import HTTPResponse
from vestal.client.tracing import Trace

HEADERS = {"x-model-version": "1.0", "x-request-id": "r"}
VALUES: list[Any] = [
    {"label": "7"}, [1, 2], "text", 3, 2.5, True, False, None, {}, [], "", 0,
]  # fmt: skip


def prediction_of(
    body: bytes, content_type: str | None = "application/json", **headers: str
) -> Prediction:
    types = {"content-type": content_type} if content_type else {}
    response = HTTPResponse(200, "OK", {**HEADERS, **types, **headers}, body)
    trace = Trace("00-a-b-00", "c")
    return Prediction.from_reply(response, model="m", latency=0.5, attempts=2, trace=trace)


@pytest.mark.parametrize("value", VALUES)
def test_the_value_is_a_plain_python_value(value: Any) -> None:
    prediction = prediction_of(json.dumps(value).encode())
    assert prediction.value == value
    assert type(prediction.value) is type(value)
    assert bool(prediction) is bool(value)
    assert json.dumps(prediction.value) == json.dumps(value)


@pytest.mark.parametrize("value", VALUES)
def test_a_prediction_holds_the_facts_of_its_call(value: Any) -> None:
    prediction = prediction_of(json.dumps(value).encode())
    for each in (prediction, copy.copy(prediction), pickle.loads(pickle.dumps(prediction))):
        assert (each.model, each.version, each.request_id) == ("m", "1.0", "r")
        assert (each.latency, each.attempts) == (0.5, 2)
        assert (each.correlation_id, each.traceparent) == ("c", "00-a-b-00")
        assert each == prediction


def test_a_prediction_has_the_items_of_its_value() -> None:
    classes = prediction_of(b'{"label": "7", "top": [0.9, 0.1]}')
    assert classes["label"] == "7"
    assert "label" in classes
    assert "version" not in classes
    assert list(classes) == ["label", "top"]
    assert len(classes) == 2
    row = prediction_of(b"[3, 5]")
    assert (row[0], row[-1], list(row), len(row), 5 in row) == (3, 5, [3, 5], 2, True)
    with pytest.raises(KeyError, match="lable"):
        classes["lable"]


@pytest.mark.parametrize("body", [b"2.5", b"null", b"true"])
def test_a_value_without_items_is_named_in_the_error(body: bytes) -> None:
    prediction = prediction_of(body)
    kind = type(prediction.value).__name__
    for use in (lambda: prediction["label"], lambda: "label" in prediction):
        with pytest.raises(TypeError, match=rf"prediction of m is of type {kind} and has no items"):
            use()
    with pytest.raises(TypeError, match=rf"type {kind} and is not iterable; use prediction\.value"):
        iter(prediction)
    with pytest.raises(TypeError, match=rf"type {kind} and has no length"):
        len(prediction)


def test_predictions_are_equal_by_all_attributes_and_never_equal_a_bare_value() -> None:
    prediction = prediction_of(b'{"label": "7"}')
    assert prediction == prediction_of(b'{"label": "7"}')
    assert prediction != replace(prediction, latency=0.6)
    value: object = {"label": "7"}
    assert prediction != value


def test_a_prediction_is_frozen() -> None:
    prediction = prediction_of(b"1")
    with pytest.raises(FrozenInstanceError):
        prediction.value = 2  # type: ignore[misc]


def test_the_repr_shows_value_model_version_and_latency() -> None:
    assert repr(prediction_of(b'{"label": "7"}')) == (
        "Prediction(value={'label': '7'}, model='m', version='1.0', latency=0.5, attempts=2)"
    )


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b'{"a": 1}', "application/json; charset=utf-8", {"a": 1}),
        (b'{"a": 1}', "application/problem+json", {"a": 1}),
        (b'{"a": 1}', None, {"a": 1}),  # a plain handler that returns a dict
        (b"a cat", None, "a cat"),
        (b"\x89PNG\xff", None, b"\x89PNG\xff"),
        (b"7", "text/plain", "7"),
        (b"\xff", "text/plain", "�"),
        (b"7", "application/octet-stream", b"7"),
        (b"\x89PNG", "image/png", b"\x89PNG"),
        (b"not json", "application/json", "not json"),
        (b"", None, ""),
    ],
)
def test_the_content_type_decides_how_a_body_is_decoded(
    body: bytes, content_type: str | None, value: object
) -> None:
    prediction = prediction_of(body, content_type)
    assert prediction.value == value
    assert type(prediction.value) is type(value)


def test_a_handler_that_sends_no_headers_leaves_version_and_request_id_unknown() -> None:
    trace = Trace("00-a-b-00", "c")
    response = HTTPResponse(200, "", {}, b"{}")
    prediction = Prediction.from_reply(response, model="m", latency=0.1, attempts=1, trace=trace)
    assert prediction.version is None
    assert prediction.request_id is None
