"""Check a JSON value against a small part of JSON Schema.

The supported keywords of draft 2020-12 (https://json-schema.org/draft/2020-12/json-schema-validation):

    any value   type (one or a list), enum, anyOf
    number      minimum, maximum, exclusiveMinimum, exclusiveMaximum
    string      minLength, maxLength
    array       prefixItems, items, minItems, maxItems
    object      properties, required, additionalProperties: false

The result is that of a full validator, except that NaN and infinity are refused, which some parsers
accept. A `title` in `prefixItems` is the name of the field. No validation library is used, because
archives must load where only TorchServe and torch are installed.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vestal_handlers.errors import InputError

Schema = Mapping[str, Any]

FLOAT32_MAX = 3.4028234663852886e38  # IEEE 754 binary32: (2 - 2**-23) * 2**127
# The range of a float32 tensor; a larger number would become infinity.
FLOAT32: dict[str, Any] = {"type": "number", "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX}

_NAMES = {
    "number": "a number",
    "integer": "an integer",
    "string": "a string",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", operator.ge),
    "maximum": ("at most", operator.le),
    "exclusiveMinimum": ("above", operator.gt),
    "exclusiveMaximum": ("below", operator.lt),
}
_SHOWN = 40  # characters of a value in a message


def validate(value: Any, schema: Schema, what: str = "the input") -> None:
    """Check a JSON value, as `json.loads` returns it.

    Args:
        what: names the value in messages.

    Raises:
        InputError: 422, with the field, the expected value and the value received.
    """
    problem = _problem(value, schema, what, "")
    if problem:
        raise InputError(422, problem)


def _problem(value: Any, schema: Schema, what: str, path: str) -> str | None:
    """A message about the first error in a value; None if it is valid."""
    kinds = _listed(schema.get("type", ()))
    if kinds and not any(_is(value, kind) for kind in kinds):
        expected = " or ".join(_NAMES[kind] for kind in kinds)
        return f"{_where(what, path)} must be {expected}, got {shown(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{_where(what, path)} must be a finite number, got {shown(value)}"
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        return f"{_where(what, path)} must be {_one_of(value, schema['enum'])}"
    if "anyOf" in schema:
        problem = _any_of(value, schema["anyOf"], what, path)
        if problem:
            return problem
    check = _CHECKS.get(type(value))
    return check(value, schema, what, path) if check else None


def _any_of(value: Any, branches: Sequence[Schema], what: str, path: str) -> str | None:
    """The error of the closest branch: that of the value's type with the most matching fields."""
    candidates = [b for b in branches if _is_one(value, _listed(b.get("type", ())))]
    if not candidates:
        kinds = dict.fromkeys(_NAMES[k] for b in branches for k in _listed(b["type"]))
        return f"{_where(what, path)} must be {' or '.join(kinds)}, got {shown(value)}"
    if isinstance(value, dict):
        candidates.sort(key=lambda branch: -len(value.keys() & branch.get("properties", {}).keys()))
    problems = []
    for branch in candidates:
        problem = _problem(value, branch, what, path)
        if problem is None:
            return None
        problems.append(problem)
    return problems[0]


def _number(value: float, schema: Schema, what: str, path: str) -> str | None:
    for keyword, (words, fits) in _BOUNDS.items():
        if keyword in schema and not fits(value, schema[keyword]):
            limit = f"{words} {schema[keyword]:.8g}"
            return f"{_where(what, path)} must be {limit}, got {shown(value)}"
    return None


def _string(value: str, schema: Schema, what: str, path: str) -> str | None:
    return _length(len(value), "Length", "character", schema, _where(what, path))


def _array(value: list[Any], schema: Schema, what: str, path: str) -> str | None:
    prefix: Sequence[Schema] = schema.get("prefixItems", ())
    names = [item["title"] for item in prefix if "title" in item]
    unit = f"item ({', '.join(names)})" if names else "item"
    problem = _length(len(value), "Items", unit, schema, _where(what, path))
    if problem:
        return problem
    for index, (item, item_schema) in enumerate(zip(value, prefix, strict=False)):
        problem = _problem(item, item_schema, what, item_schema.get("title") or f"{path}[{index}]")
        if problem:
            return problem
    rest = schema.get("items")
    if rest:
        is_valid = _quick_test(rest)
        for index in range(len(prefix), len(value)):
            # The quick test avoids the full check for most of thousands of values.
            if not is_valid(value[index]):
                problem = _problem(value[index], rest, what, f"{path}[{index}]")
                if problem:
                    return problem
    return None


def _quick_test(schema: Schema) -> Callable[[Any], bool]:
    """Return a test that is True for a valid value and False if the full check is needed."""
    if schema.get("type") != "number" or not schema.keys() <= {"type", "minimum", "maximum"}:
        return lambda value: False
    low, high = schema.get("minimum", -FLOAT32_MAX), schema.get("maximum", FLOAT32_MAX)
    return lambda value: type(value) in (float, int) and low <= value <= high


def _object(value: dict[str, Any], schema: Schema, what: str, path: str) -> str | None:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if schema.get("additionalProperties") is False:
        for name in value:
            if name not in properties:
                near = difflib.get_close_matches(name[:_SHOWN], properties, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                field = _where(what, _inside(path, name[:_SHOWN]))
                return f"{field} is unknown: {hint}the fields are {', '.join(properties)}"
    for name in schema.get("required", ()):
        if name not in value:
            required = ", ".join(schema["required"])
            field = _where(what, _inside(path, name))
            return f"{field} is missing: {_where(what, path)} needs {required}"
    for name, field_schema in properties.items():
        if name in value:
            problem = _problem(value[name], field_schema, what, _inside(path, name))
            if problem:
                return problem
    return None


_CHECKS: dict[type, Callable[[Any, Schema, str, str], str | None]] = {
    int: _number,
    float: _number,
    str: _string,
    list: _array,
    dict: _object,
}


def _length(count: int, suffix: str, unit: str, schema: Schema, where: str) -> str | None:
    low, high = schema.get(f"min{suffix}", 0), schema.get(f"max{suffix}", math.inf)
    if low <= count <= high:
        return None
    limit = f"exactly {low}" if low == high else f"at least {low}"
    limit = limit if count < low or low == high else f"at most {high}"
    name, _, rest = unit.partition(" ")
    plural = name if limit.endswith(" 1") else f"{name}s"
    return f"{where} must have {limit} {plural}{' ' + rest if rest else ''}, got {count}"


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "number":
            return type(value) in (int, float)
        case "integer":
            return type(value) is int or (type(value) is float and value.is_integer())
        case "null":
            return value is None
    return type(value) is {"string": str, "boolean": bool, "array": list, "object": dict}[kind]


def _is_one(value: Any, kinds: Sequence[str]) -> bool:
    return not kinds or any(_is(value, kind) for kind in kinds)


def _listed(kinds: str | Sequence[str]) -> Sequence[str]:
    return [kinds] if isinstance(kinds, str) else kinds


def _same(value: Any, choice: Any) -> bool:
    # In Python, but not in JSON, True equals 1.
    return bool(value == choice) and isinstance(value, bool) == isinstance(choice, bool)


def _one_of(value: Any, choices: Sequence[Any]) -> str:
    names = [c if isinstance(c, str) else json.dumps(c) for c in choices]
    near = difflib.get_close_matches(str(value)[:_SHOWN], names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    more = ", ..." if len(names) > 10 else ""
    return f"one of {', '.join(names[:10])}{more}, got {shown(value)}{hint}"


def _where(what: str, path: str) -> str:
    if not path:
        return what
    return f"item {path} of {what}" if path.startswith("[") else f"field '{path}'"


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def shown(value: Any) -> str:
    """A JSON value in a message, shortened."""
    match value:
        case str():
            text = json.dumps(value[:_SHOWN], ensure_ascii=False)
            return f"a string {text}" + ("..." if len(value) > _SHOWN else "")
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case int() if value.bit_length() > 100:  # small ones are shown below
            return "an integer of many digits"
        case float() if not math.isfinite(value):
            return str(json.dumps(value))
        case None | bool() | int() | float():
            return json.dumps(value)
    return type(value).__name__
