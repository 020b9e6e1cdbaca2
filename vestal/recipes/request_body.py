"""Encode an example of a data set as the request body that a client would send."""

from __future__ import annotations

import json
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.client.encoding import BYTES, CONTENT_TYPES

_TYPES = mimetypes.MimeTypes()  # Python's own table, so that it is the same on every machine
PROMPT_CHARS = 60


@dataclass(frozen=True)
class RequestBody:
    """A request body; `suffix`: suffix of a file with this content, such as `.png`."""

    content: bytes
    content_type: str
    suffix: str


def body_of(task: str, value: Any) -> RequestBody:
    """Encode a decoded input as a request body, without loss.

    Args:
        value: an image uint8 [C, H, W] (encoded as PNG), a text, or a row float32 [features]. For
            a language model, the beginning of the text becomes the prompt.
    """
    import torch  # `vestal diff` needs only content_type_of, and no torch
    from torch import Tensor

    if isinstance(value, Tensor) and value.dtype == torch.uint8:
        from torchvision.io import encode_png

        return RequestBody(bytes(encode_png(value).numpy()), "image/png", ".png")
    if isinstance(value, Tensor):
        return json_body(value.tolist())
    if task == "text_generator":
        return json_body({"prompt": value[:PROMPT_CHARS], "max_new_tokens": 16})
    return RequestBody(value.encode(), "text/plain; charset=utf-8", ".txt")


def json_body(value: Any) -> RequestBody:
    """Encode a JSON value as a request body."""
    return RequestBody(json.dumps(value).encode(), "application/json", ".json")


def content_type_of(file: Path) -> str:
    """Look up the content type of a file by its suffix."""
    known = CONTENT_TYPES.get(file.suffix.lower())
    return known or _TYPES.guess_type(file.name)[0] or BYTES
