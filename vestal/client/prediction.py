"""The result of `predict` and `explain`: a Python value and the facts of its call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vestal.client.flow import HTTPResponse
from vestal.client.tracing import CORRELATION_ID, TRACEPARENT, Trace


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's response.

    `value`: the decoded response: None, bool, int, float, str, bytes, list or dict.
    `model`: as requested. `version`: the version that responded, None if the handler does not
    send it (Vestal's handlers do). `request_id`: TorchServe's id of the request, also in its logs.
    `latency`: seconds of the whole call, retries included. `attempts`: how often the request was
    sent. `correlation_id`, `traceparent`: as sent, or as the handler returned them.

    `prediction[key]`, `in`, `len`, iteration and truth are those of `value`. Two predictions are
    equal if all their attributes are; a prediction never equals a bare value, so compare
    `prediction.value`.
    """

    value: Any
    model: str
    version: str | None
    request_id: str | None = field(repr=False)
    latency: float
    attempts: int
    correlation_id: str = field(repr=False)
    traceparent: str = field(repr=False)

    def __getitem__(self, key: Any) -> Any:
        if not hasattr(self.value, "__getitem__"):
            raise TypeError(f"{self._describe_value()} has no items; use prediction.value")
        return self.value[key]

    def __contains__(self, item: object) -> bool:
        if not hasattr(self.value, "__contains__"):
            raise TypeError(f"{self._describe_value()} has no items; use prediction.value")
        return item in self.value

    def __iter__(self) -> Iterator[Any]:
        if not hasattr(self.value, "__iter__"):
            raise TypeError(f"{self._describe_value()} is not iterable; use prediction.value")
        return iter(self.value)

    def __len__(self) -> int:
        if not hasattr(self.value, "__len__"):
            raise TypeError(f"{self._describe_value()} has no length; use prediction.value")
        return len(self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def _describe_value(self) -> str:
        return f"the prediction of {self.model} is of type {type(self.value).__name__} and"

    @classmethod
    def from_reply(
        cls, response: HTTPResponse, *, model: str, latency: float, attempts: int, trace: Trace
    ) -> Prediction:
        """Decode a successful response; `trace`: the headers that were sent."""
        return cls(
            value=decode(response),
            model=model,
            version=response.headers.get("x-model-version"),
            request_id=response.headers.get("x-request-id"),
            latency=latency,
            attempts=attempts,
            correlation_id=response.headers.get(CORRELATION_ID, trace.correlation_id),
            traceparent=response.headers.get(TRACEPARENT, trace.traceparent),
        )


def decode(response: HTTPResponse) -> Any:
    """Decode a body by its content type; without one: JSON, else text, else bytes."""
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = content_type == "application/json" or content_type.endswith("+json")
    if is_json or not content_type:
        try:
            return json.loads(response.body)
        except (RecursionError, ValueError):
            pass
    if content_type.startswith("text/"):
        return response.body.decode("utf-8", "replace")
    if is_json or not content_type:
        try:
            return response.body.decode()
        except UnicodeDecodeError:
            pass
    return response.body
