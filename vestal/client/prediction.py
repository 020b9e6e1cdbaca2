"""The result of `predict` and `explain`: a Python value and the details of its call."""

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
    `latency`: seconds of the whole call, retries included. `attempts`: number of attempts to send
    the request. `correlation_id`, `traceparent`: as sent, or as the handler returned them.

    `prediction[key]`, `in`, `len`, iteration and truth are those of `value`. Two predictions are
    equal if all their attributes are. To compare a prediction with a value, use `prediction.value`.
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
        return self._value_with("__getitem__", "has no items")[key]

    def __contains__(self, item: object) -> bool:
        return item in self._value_with("__contains__", "has no items")

    def __iter__(self) -> Iterator[Any]:
        return iter(self._value_with("__iter__", "is not iterable"))

    def __len__(self) -> int:
        return len(self._value_with("__len__", "has no length"))

    def __bool__(self) -> bool:
        return bool(self.value)

    def _value_with(self, method: str, otherwise: str) -> Any:
        if not hasattr(self.value, method):
            raise TypeError(
                f"the prediction of {self.model} is of type {type(self.value).__name__} and "
                f"{otherwise}; use prediction.value"
            )
        return self.value

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
