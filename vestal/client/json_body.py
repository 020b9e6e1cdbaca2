"""Encode an input as JSON; refuse one whose names repeat, since JSON keeps one of their values."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vestal.client.arrays import plain
from vestal.client.errors import InvalidInput


def read_file(path: Path) -> bytes:
    """Return a file's bytes; raises InvalidInput if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidInput(f"the input file {path.absolute()} cannot be read: {reason}") from error


def json_body(value: Any) -> bytes:
    """Return a value as JSON: arrays as nested lists, bytes and files as base64.

    Raises:
        InvalidInput: JSON cannot hold it (an object, NaN), or two keys have the same name in JSON.
    """
    try:
        text = json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":"))
    except InvalidInput:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        place = _not_finite(value) if "Out of range float" in str(error) else None
        reason = f"{place}; JSON has neither NaN nor infinity" if place else str(error)
        raise InvalidInput(f"the input cannot be written as JSON: {reason}") from error
    _check_names(value)
    return text.encode()


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Path):
        return base64.b64encode(_content(value)).decode()
    return plain(value)


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise InvalidInput(f"{path.absolute()} is not a file: inside JSON only files are read")
    return read_file(path)


def _check_names(value: Any) -> None:
    """Raise InvalidInput if two keys of a dict have the same name in JSON, as 1 and "1" do."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        items = one
        if isinstance(one, Mapping):
            items = one.values()
            if not all(isinstance(key, str) for key in one):
                _check_keys(one)
        elif not isinstance(one, (list, tuple)):
            continue
        waiting.extend(item for item in items if isinstance(item, (Mapping, list, tuple)))


def _check_keys(value: Mapping[Any, Any]) -> None:
    known: dict[str, Any] = {}
    for key in value:
        name = key if isinstance(key, str) else json.dumps(key)
        if name in known:
            raise InvalidInput(
                f"the input's keys {known[name]!r} and {key!r} are both {name!r} in JSON, which "
                "would keep one of their values; rename one of them"
            )
        known[name] = key


def _not_finite(value: Any, place: str = "") -> str | None:
    """Return the place of the first NaN or infinity: `instances[3]['bmi'] is nan`."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{place or 'the value'} is {value}"
    if isinstance(value, Mapping):
        parts = [
            (value[key], key if not place and key == "instances" else f"{place}[{key!r}]")
            for key in value
        ]
    elif isinstance(value, (list, tuple)):
        parts = [(item, f"{place}[{index}]") for index, item in enumerate(value)]
    else:
        try:
            return _not_finite(plain(value), place)
        except TypeError:
            return None
    return next((found for part, name in parts if (found := _not_finite(part, name))), None)
