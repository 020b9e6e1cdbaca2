"""The sample in this archive, for clients that verify the version."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from vestal_handlers.errors import InputError

HEADER = "x-vestal-sample"
"""The request header with a position in the text: a worker's response has a limited size."""
PART_LENGTH = 1 << 20
"""Characters in one response; TorchServe kills a worker whose response is too large."""


def read_part(folder: Path, position: str) -> dict[str, Any] | None:
    """`{"text": ..., "length": ...}`: a part of the sample as JSON, and the length of the whole.

    The JSON is `sample/sample.json` with the bytes of its input in base64. None if the archive has
    no sample.

    Raises:
        InputError: 400, the position is not a number.
    """
    if not position.isdecimal() or len(position) > 18:
        raise InputError(400, f"{HEADER}: expected a position in the sample, a number from 0 on")
    place = folder / "sample"
    if not (place / "sample.json").is_file():
        return None
    description = json.loads((place / "sample.json").read_text("utf-8"))
    body = (place / description["input"]).read_bytes()
    text = json.dumps({**description, "base64": base64.b64encode(body).decode()})
    start = int(position)
    return {"text": text[start : start + PART_LENGTH], "length": len(text)}
