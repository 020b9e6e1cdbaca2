"""The description of a model: `GET /models/{name}?customized=true`."""

from __future__ import annotations

from typing import Any

from vestal_handlers import packed_sample
from vestal_handlers.requests.request import InferenceRequest


def describe_handler(handler: Any) -> dict[str, Any]:
    """Name, engine, limits, schemas and an example of a loaded `BatchHandler`."""
    return {
        "name": handler.name,
        "version": handler.version,
        "handler": next(k.__name__ for k in type(handler).__mro__ if k.__module__ != "handler"),
        "engine": handler.engine.describe(),
        "artifact_sha256": handler.artifact_sha256,
        "worker": handler.worker_id,
        "limits": handler.limits(),
        "input": handler.input_schema(),
        "output": handler.output_schema(),
        "example": handler.example(),
    }


def describe_or_sample(handler: Any, request: InferenceRequest) -> dict[str, Any]:
    """Return the description, or a part of the packed sample if a header requests it."""
    position = request.headers.get(packed_sample.HEADER)
    if position is None:
        description: dict[str, Any] = handler.describe()
        return description
    part = packed_sample.read_part(handler.model_dir, position)
    return {} if part is None else {"sample": part}
