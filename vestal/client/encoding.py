"""Encode an input as a request body.

Path                            the file's bytes; content type by its suffix
str                             text/plain, even if a file has that name
bytes, bytearray, memoryview    unchanged
file object                     the bytes from its position to its end
PIL image                       PNG with its EXIF orientation; TIFF if PNG does not have its mode
array or tensor of an image     PNG (uint8 of an image's shape: see `vestal.client.arrays`)
other array or tensor           JSON: {"data": nested lists}
pandas row, table               JSON: {"column": value}; {"instances": [row, ...]}
dict, list, tuple, number       JSON; arrays and tensors inside it as nested lists, bytes and the
                                files of Paths as base64

A str is never a file name: a service that forwards the texts of its users never sends its files.
"""

from __future__ import annotations

import io
import re
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from vestal.client.arrays import comes_from, is_image, png, type_name
from vestal.client.errors import InvalidInput
from vestal.client.json_body import json_body, read_file
from vestal.client.pillow import encode_image

BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

IMAGES = {
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
CONTENT_TYPES = {**IMAGES, ".json": JSON, ".txt": TEXT}

# One line that begins like an absolute or relative path, or ends in a suffix.
_PATH_LIKE = re.compile(r"(~|\.{1,2}|[A-Za-z]:)?[/\\].+|.*[^\s./\\]\.[A-Za-z]\w{0,7}")
_LONGEST_PATH = 1024


class Payload(NamedTuple):
    body: bytes
    content_type: str


def encode(value: Any) -> Payload:
    """Return the body and content type of an input; raises InvalidInput."""
    if isinstance(value, Path):
        return Payload(read_file(value), CONTENT_TYPES.get(value.suffix.lower(), BYTES))
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Payload(bytes(value), BYTES)
    if comes_from(value, "PIL"):
        return Payload(*encode_image(value))
    if comes_from(value, "numpy") or comes_from(value, "torch"):
        if is_image(value):
            return Payload(png(value), IMAGES[".png"])
        return Payload(json_body({"data": value}), JSON)
    if comes_from(value, "pandas"):
        return Payload(json_body(value), JSON)
    if callable(getattr(value, "read", None)):
        return _stream(value)
    if isinstance(value, (dict, list, tuple, int, float)):
        return Payload(json_body(value), JSON)
    raise InvalidInput(
        f"an input of type {type_name(value)} cannot be sent: expected a path, bytes, a str, a "
        "file object, a PIL image, a numpy array, a torch tensor, a pandas row, a dict or a list"
    )


def takes_long(value: Any) -> bool:
    """Whether encoding a value reads a file, or takes long enough to block an event loop."""
    if isinstance(value, (bytes, str)):
        return False
    is_file = isinstance(value, Path) or callable(getattr(value, "read", None))
    return is_file or _holds_arrays(value)


def _holds_arrays(value: Any, depth: int = 4) -> bool:
    if isinstance(value, (dict, list, tuple)):
        # Check only a few items: checking all of them would take long, too.
        items = islice(value.values() if isinstance(value, dict) else value, 8)
        return depth > 0 and any(_holds_arrays(each, depth - 1) for each in items)
    if isinstance(value, Path):
        return True
    return any(comes_from(value, package) for package in ("PIL", "numpy", "torch", "pandas"))


def may_hang(value: Any) -> bool:
    """Whether encoding a value may read from a pipe or a socket, which may never end."""
    if isinstance(value, Path):
        return not value.is_file()
    in_memory = isinstance(value, (io.BytesIO, io.StringIO)) or comes_from(value, "PIL")
    return callable(getattr(value, "read", None)) and not in_memory


def looks_like_path(value: Any) -> bool:
    """Whether an input is a str that the caller may have intended as a file name."""
    short = isinstance(value, str) and len(value) <= _LONGEST_PATH and value.isprintable()
    return short and _PATH_LIKE.fullmatch(value.strip()) is not None


def _text(text: str) -> Payload:
    try:
        return Payload(text.encode(), TEXT)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the input text is not valid Unicode: {error}") from None


def _stream(file: IO[Any]) -> Payload:
    try:
        body = file.read()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the input file object cannot be read: {error}") from error
    name = getattr(file, "name", None)
    suffix = Path(name).suffix.lower() if isinstance(name, str) else ""
    if isinstance(body, str):
        text = _text(body)
        return Payload(text.body, CONTENT_TYPES.get(suffix, text.content_type))
    if not isinstance(body, (bytes, bytearray)):
        raise InvalidInput(f"the input's read() returned {type_name(body)}: expected bytes or str")
    return Payload(bytes(body), CONTENT_TYPES.get(suffix, BYTES))
