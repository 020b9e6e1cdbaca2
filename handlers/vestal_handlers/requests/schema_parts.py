"""JSON Schemas that several tasks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROBABILITY: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
TEXT: dict[str, Any] = {"type": "string"}
SWITCH: dict[str, Any] = {"type": "boolean"}
VECTOR: dict[str, Any] = {"type": "array", "items": {"type": "number"}}


def object_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with all of these fields."""
    return {"type": "object", "properties": dict(fields), "required": list(fields)}


def list_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a list of any length."""
    return {"type": "array", "items": dict(item)}


def at_least_one(most: int | None = None) -> dict[str, Any]:
    """The schema of an integer from 1 to `most`; None: without a maximum."""
    maximum = {} if most is None else {"maximum": most}
    return {"type": "integer", "minimum": 1, **maximum}
