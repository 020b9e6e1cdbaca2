"""The fields of a form, whose values are strings, as the values that a JSON Schema expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def parse_fields(fields: Mapping[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the fields whose schema is not a string: `"5"` to 5, `"true"` to True, `"[]"` to [].

    A value that cannot be parsed stays as it is, so that validation reports the field.
    """
    parsed = dict(fields)
    for name, value in fields.items():
        if properties.get(name, {}).get("type") in ("integer", "number", "boolean", "array"):
            try:
                parsed[name] = json.loads(value)
            except (TypeError, ValueError, RecursionError):
                continue
    return parsed
