"""Make a small value that a JSON Schema allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEPTH = 10
_PLAIN = {"string": "text", "integer": 0, "number": 0.0, "boolean": False}


def example_of(schema: Any, depth: int = DEPTH) -> Any:
    """Return the value; None if the schema is too general, or allows only null.

    It may be invalid, because some keywords (`pattern`, `uniqueItems`) are ignored.
    """
    if not isinstance(schema, Mapping) or not depth:
        return None
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    for key in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(key, ()):
            found = example_of({**choice, **_own(schema)}, depth - 1)
            if found is not None:
                return found
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    kind = next((one for one in kinds if one != "null"), None)
    if kind == "object" or "properties" in schema:
        return _object(schema, depth)
    if kind == "array":
        return _array(schema, depth)
    if kind in ("integer", "number"):
        return _number(schema, kind)
    if kind == "string":
        return "text".ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]
    return _PLAIN.get(kind) if isinstance(kind, str) else None


def _own(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "allOf")}


def _object(schema: Mapping[str, Any], depth: int) -> dict[str, Any] | None:
    known = schema.get("properties", {})
    found = {
        name: example_of(known.get(name, {}), depth - 1)
        for name in schema.get("required", list(known))
    }
    return None if None in found.values() else found


def _array(schema: Mapping[str, Any], depth: int) -> list[Any] | None:
    first = [example_of(one, depth - 1) for one in schema.get("prefixItems", [])]
    missing = max(schema.get("minItems", 1) - len(first), 0)
    items = schema.get("items")
    found = first + [example_of(items, depth - 1)] * missing
    return None if None in found else found


def _number(schema: Mapping[str, Any], kind: str) -> int | float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value = 0.0
    if low is not None and low >= 0:
        value = low + 1 if high is None else (low + high) / 2
    elif high is not None and high <= 0:
        value = high - 1 if low is None else (low + high) / 2
    return int(value) if kind == "integer" else float(value)
