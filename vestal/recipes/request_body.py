"""How an example of a data set is asked of a handler: the body that a caller would send."""

from __future__ import annotations

import json
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestal.client.encoding import BYTES, CONTENT_TYPES

_TYPES = mimetypes.MimeTypes()  # Python's own table: the same on every machine
PROMPT_CHARS = 60


@dataclass(frozen=True)
class Body:
    """`suffix`: of a file that holds it, `.png`."""

    content: bytes
    content_type: str
    suffix: str


def body_of(task: str, given: Any) -> Body:
    """A decoded input becomes a request's body, without loss.

    Args:
        given: an image uint8 [C, H, W] (sent as PNG), a text, or a row float32 [features]. Of a
            language model's text the beginning becomes a prompt.
    """
    if isinstance(given, Tensor) and given.dtype == torch.uint8:
        from torchvision.io import encode_png

        return Body(bytes(encode_png(given).numpy()), "image/png", ".png")
    if isinstance(given, Tensor):
        return json_body(given.tolist())
    if task == "text_generator":
        return json_body({"prompt": given[:PROMPT_CHARS], "max_new_tokens": 16})
    return Body(given.encode(), "text/plain; charset=utf-8", ".txt")


def json_body(value: Any) -> Body:
    """A JSON value as a request's body."""
    return Body(json.dumps(value).encode(), "application/json", ".json")


def content_type_of(file: Path) -> str:
    """The content type of a file, by its suffix."""
    known = CONTENT_TYPES.get(file.suffix.lower())
    return known or _TYPES.guess_type(file.name)[0] or BYTES
