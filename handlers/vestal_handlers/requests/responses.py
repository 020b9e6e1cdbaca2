"""Build the response of a request from the predictions of its instances."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vestal_handlers.errors import InputError
from vestal_handlers.requests import protocol_v2
from vestal_handlers.requests.request import InferenceRequest, Instance

JSON = "application/json"
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


@dataclass(frozen=True)
class Media:
    """A prediction that is not JSON, such as an image; base64 in a list of predictions."""

    body: bytes
    content_type: str


@dataclass(frozen=True)
class HandlerResponse:
    """The body, content type and headers of one HTTP response."""

    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def to_json(value: Any) -> bytes:
    """Encode a value; raise ValueError for NaN and infinity, TypeError for other types."""
    # TorchServe would indent the JSON, allow NaN, and set no content type.
    return _encode(value).encode()


def response_to(request: InferenceRequest, model: str, version: str) -> HandlerResponse:
    """Combine the predictions of a request's instances.

    Raises:
        RequestFailure: the first error, if every instance or a row of a v2 tensor failed.
    """
    instances = request.instances
    failed = [instance.error for instance in instances if instance.error]
    if request.v2:
        _check_whole(instances)
        predictions = [instance.prediction for instance in instances]
        return HandlerResponse(
            to_json(protocol_v2.response(request.v2, model, version, predictions))
        )
    if len(failed) == len(instances):
        raise failed[0]
    if not request.many:
        (only,) = instances
        kind = only.prediction.content_type if isinstance(only.prediction, Media) else JSON
        return HandlerResponse(only.body, kind)
    bodies = [_in_json(instance) for instance in instances]
    headers = {"x-failed-instances": str(len(failed))} if failed else {}
    return HandlerResponse(b'{"predictions": [' + b", ".join(bodies) + b"]}", headers=headers)


def oversized(bodies: Sequence[bytes], limit: int) -> list[int]:
    """Indices of the largest responses of a batch, without which it has at most `limit` bytes."""
    total, indices = sum(map(len, bodies)), []
    for index in sorted(range(len(bodies)), key=lambda index: -len(bodies[index])):
        if total <= limit:
            break
        indices.append(index)
        total -= len(bodies[index])
    return indices


def _in_json(instance: Instance) -> bytes:
    if instance.error:
        return to_json(instance.error.body(instance.request.id))
    if isinstance(instance.prediction, Media):
        text = base64.b64encode(instance.prediction.body).decode()
        return to_json({"b64": text, "content_type": instance.prediction.content_type})
    return instance.body


def _check_whole(instances: Sequence[Instance]) -> None:
    for index, instance in enumerate(instances):
        if isinstance(instance.error, InputError):
            raise InputError(422, f"row {index}: {instance.error.message}")
        if instance.error:
            raise instance.error
