"""Answers: plain Python values that know where they came from.

A JSON object is a dict, an array a list, a text a str, a number an int or float, other bytes are
bytes: small subclasses that behave, compare and print as their base does. Python allows no
subclass of bool and none of None, so `true`, `false` and `null` are stand-ins: right in `if` and
with `==`, but not with `is`. `answer.value` is the bare value of every answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from vestal.client.steps import Reply
from vestal.client.tracing import CORRELATION_ID, TRACEPARENT, Trace

if TYPE_CHECKING:
    # What a model answers is known to the model alone: to a type checker an answer can be
    # anything, and has these attributes.
    _Anything = Any
else:
    _Anything = object


class Answer(_Anything):  # type: ignore[misc]
    """What a model said.

    `model`: as it was called. `version`: the one that answered, None where the handler does not
    say (only Vestal's handlers do). `request_id`: TorchServe's, also in its logs. `latency`:
    seconds of the whole call, retries included. `attempts`: how often it was sent.
    `correlation_id`, `traceparent`: as sent, or as the handler sent them back.
    """

    model: str
    version: str | None
    request_id: str | None
    latency: float
    attempts: int
    correlation_id: str
    traceparent: str

    @property
    def value(self) -> Any:
        """The bare Python value."""
        raise NotImplementedError


class DictAnswer(Answer, dict):  # type: ignore[type-arg]
    @property
    def value(self) -> dict[str, Any]:
        return dict(self)


class ListAnswer(Answer, list):  # type: ignore[type-arg]
    @property
    def value(self) -> list[Any]:
        return list(self)


class StrAnswer(Answer, str):
    @property
    def value(self) -> str:
        return str.__str__(self)


class BytesAnswer(Answer, bytes):
    @property
    def value(self) -> bytes:
        return bytes(self)


class IntAnswer(Answer, int):
    @property
    def value(self) -> int:
        return int(self)


class FloatAnswer(Answer, float):
    @property
    def value(self) -> float:
        return float(self)


class BoolAnswer(Answer, int):
    @property
    def value(self) -> bool:
        return bool(self)

    def __repr__(self) -> str:
        return repr(bool(self))

    __str__ = __repr__


class NoneAnswer(Answer):
    @property
    def value(self) -> None:
        return None

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, NoneAnswer)

    def __hash__(self) -> int:
        return hash(None)

    def __repr__(self) -> str:
        return "None"


_ANSWERS: dict[type, type[Answer]] = {
    dict: DictAnswer,
    list: ListAnswer,
    str: StrAnswer,
    bytes: BytesAnswer,
    int: IntAnswer,
    float: FloatAnswer,
    bool: BoolAnswer,
}


def answer(reply: Reply, *, model: str, latency: float, attempts: int, trace: Trace) -> Answer:
    """The answer of a reply, with the facts of its call."""
    value = decode(reply)
    made = NoneAnswer() if value is None else _ANSWERS[type(value)](value)
    made.model = model
    made.version = reply.headers.get("x-model-version")
    made.request_id = reply.headers.get("x-request-id")
    made.latency = latency
    made.attempts = attempts
    made.correlation_id = reply.headers.get(CORRELATION_ID, trace.correlation_id)
    made.traceparent = reply.headers.get(TRACEPARENT, trace.traceparent)
    return made


def decode(reply: Reply) -> Any:
    """The body by its content type; without one (a handler's dict) JSON, else text, else bytes."""
    content_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = content_type == "application/json" or content_type.endswith("+json")
    if is_json or not content_type:
        try:
            return json.loads(reply.body)
        except (RecursionError, ValueError):
            pass
    if content_type.startswith("text/"):
        return reply.body.decode("utf-8", "replace")
    if is_json or not content_type:
        try:
            return reply.body.decode()
        except UnicodeDecodeError:
            pass
    return reply.body
