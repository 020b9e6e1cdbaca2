"""What a request gets: its status, its headers and its body."""

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


@dataclass(frozen=True)
class Media:
    """An answer that is no JSON: a picture, say. Among several it becomes base64 in the JSON."""

    body: bytes
    content_type: str


@dataclass(frozen=True)
class HandlerResponse:
    """One HTTP answer, but for its status line."""

    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def to_json(value: Any) -> bytes:
    """Raises ValueError for NaN, TypeError for what JSON does not know."""
    # Encoded here: TorchServe would indent it, let NaN through, and name no content type.
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def response_to(request: InferenceRequest, model: str, version: str) -> HandlerResponse:
    """The encoded answers of a request's instances as one reply.

    Raises:
        Failure: every instance failed (the first one's), or one row of a v2 tensor.
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
    """The largest responses of a batch, without which the others have at most `limit` bytes."""
    total, found = sum(map(len, bodies)), []
    for index in sorted(range(len(bodies)), key=lambda index: -len(bodies[index])):
        if total <= limit:
            break
        found.append(index)
        total -= len(bodies[index])
    return found


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
