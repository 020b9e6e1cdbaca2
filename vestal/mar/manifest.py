"""A manifest as TorchServe's frontend reads it: Gson takes a number or a boolean for its text."""

from __future__ import annotations

import json
from typing import Any

_TEXTS = ("modelName", "modelVersion")  # those that no worker reads as they stand in the file


def read_manifest(text: str | bytes) -> Any:
    """The parsed JSON, numbers as their literals: `1.10` stays "1.10"; `true` as a version "true".

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    given = json.loads(text, parse_int=_Number, parse_float=_Number)
    model = given.get("model") if isinstance(given, dict) else None
    if isinstance(model, dict):
        for key in _TEXTS:
            value = model.get(key)
            if isinstance(value, bool):
                model[key] = str(value).lower()
            elif isinstance(value, _Number):
                model[key] = str(value)
    return given


class _Number(str):
    """A number's literal: a text, but no text of the manifest's own."""
