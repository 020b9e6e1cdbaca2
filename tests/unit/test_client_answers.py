"""Answers behave like plain Python, and know where they came from."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from vestal import Answer
from vestal.client.answers import answer
from vestal.client.steps import Reply
from vestal.client.tracing import Trace

HEADERS = {"x-model-version": "1.0", "x-request-id": "r"}


def made(body: bytes, content_type: str | None = "application/json", **headers: str) -> Answer:
    types = {"content-type": content_type} if content_type else {}
    reply = Reply(200, "OK", {**HEADERS, **types, **headers}, body)
    return answer(reply, model="m", latency=0.5, attempts=2, trace=Trace("00-a-b-00", "c"))


VALUES: list[Any] = [
    {"label": "7"}, [1, 2], "text", 3, 2.5, True, False, None, {}, [], "", 0,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_an_answer_is_its_value(value: Any) -> None:
    got = made(json.dumps(value).encode())
    assert got == value
    assert bool(got) == bool(value)
    assert repr(got) == repr(value)
    assert str(got) == str(value)
    assert got.value == value
    assert type(got.value) is type(value)
    assert isinstance(got, Answer)


@pytest.mark.parametrize("value", VALUES)
def test_an_answer_knows_its_call(value: Any) -> None:
    got = made(json.dumps(value).encode())
    for each in (got, copy.copy(got), pickle.loads(pickle.dumps(got))):
        assert (each.model, each.version, each.request_id) == ("m", "1.0", "r")
        assert (each.latency, each.attempts) == (0.5, 2)
        assert each == value


def test_an_answer_is_used_like_its_value() -> None:
    got = made(b'{"label": "7", "scores": [0.9, 0.1]}')
    assert got["label"] == "7"
    assert isinstance(got, dict)
    assert json.dumps(got) == '{"label": "7", "scores": [0.9, 0.1]}'
    assert {made(b"null"): 1} == {None: 1}


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b'{"a": 1}', "application/json; charset=utf-8", {"a": 1}),
        (b'{"a": 1}', "application/problem+json", {"a": 1}),
        (b'{"a": 1}', None, {"a": 1}),  # a dict of a foreign handler
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
def test_the_content_type_says_what_an_answer_is(
    body: bytes, content_type: str | None, value: object
) -> None:
    got = made(body, content_type)
    assert got == value
    assert type(got.value) is type(value)


def test_a_foreign_handler_names_no_version() -> None:
    reply = Reply(200, "", {}, b"{}")
    got = answer(reply, model="m", latency=0.1, attempts=1, trace=Trace("00-a-b-00", "c"))
    assert got.version is None
    assert got.request_id is None
