"""What a model tells about itself: `GET /models/{name}?customized=true`."""

from __future__ import annotations

from typing import Any


def description_of(handler: Any) -> dict[str, Any]:
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
