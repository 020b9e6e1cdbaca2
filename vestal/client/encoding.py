"""How an input becomes a request's body.

Path                            the file's bytes; content type by its suffix
str with an image's suffix      the same: "seven.png" is a file
any other str                   text/plain
bytes, bytearray, memoryview    as they are
file object                     what is left to read, as a file
PIL image                       PNG
array or tensor of an image     PNG (uint8 of an image's shape: see `vestal.client.arrays`)
other array or tensor           JSON: {"data": nested lists}
pandas row, table               JSON: {"column": value}; {"instances": [row, ...]}
dict, list, tuple, number       JSON; arrays and tensors inside it as nested lists, bytes and the
                                files of Paths as base64

Whether a str is a file depends on its spelling alone, never on which files exist: a service that
passes its users' texts on would otherwise send any file that a user can name. Text that happens to
end in ".png" goes as bytes: `text.encode()`.
"""

from __future__ import annotations

import base64
import io
import json
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from vestal.client.arrays import COMPRESSION, comes_from, is_image, plain, png, type_name
from vestal.client.errors import Facts, InvalidInput

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


class Payload(NamedTuple):
    body: bytes
    content_type: str


def encode(value: Any) -> Payload:
    """The body and content type of an input; raises InvalidInput."""
    if isinstance(value, Path):
        return _file(value)
    if isinstance(value, str):
        return _file(Path(value), value) if _names_image(value) else _text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Payload(bytes(value), BYTES)
    if comes_from(value, "PIL"):
        return _png(value)
    if comes_from(value, "numpy") or comes_from(value, "torch"):
        return Payload(png(value), IMAGES[".png"]) if is_image(value) else _json({"data": value})
    if comes_from(value, "pandas"):
        return _json(value)
    if callable(getattr(value, "read", None)):
        return _stream(value)
    if isinstance(value, (dict, list, tuple, int, float)):
        return _json(value)
    raise InvalidInput(
        f"an input of type {type_name(value)} cannot be sent: expected a path, bytes, a str, a "
        "file object, a PIL image, a numpy array, a torch tensor, a pandas row, a dict or a list"
    )


def takes_long(value: Any) -> bool:
    """Does encoding it read a file, or work long enough to hold an event loop up?"""
    if isinstance(value, (bytes, str)):
        return isinstance(value, str) and _names_image(value)
    is_file = isinstance(value, Path) or callable(getattr(value, "read", None))
    return is_file or _holds_arrays(value)


def _holds_arrays(value: Any, depth: int = 4) -> bool:
    if isinstance(value, (dict, list, tuple)):
        # A few items tell: to look at all of them would take long, too.
        items = islice(value.values() if isinstance(value, dict) else value, 8)
        return depth > 0 and any(_holds_arrays(each, depth - 1) for each in items)
    if isinstance(value, Path):
        return True
    return any(comes_from(value, package) for package in ("PIL", "numpy", "torch", "pandas"))


def may_hang(value: Any) -> bool:
    """Does encoding it read from what may never end, as a pipe or a socket does?"""
    if isinstance(value, str):
        return _names_image(value) and not Path(value).is_file()
    if isinstance(value, Path):
        return not value.is_file()
    in_memory = isinstance(value, (io.BytesIO, io.StringIO)) or comes_from(value, "PIL")
    return callable(getattr(value, "read", None)) and not in_memory


def _names_image(text: str) -> bool:
    return text.lower().endswith(tuple(IMAGES)) and "\n" not in text and "\0" not in text


def _file(path: Path, spelled: str | None = None) -> Payload:
    try:
        body = path.read_bytes()
    except OSError as error:
        hint = None
        if spelled is not None:
            hint = "A str with an image's suffix names a file; text goes as text.encode()"
        reason = error.strerror or str(error)
        raise InvalidInput(
            f"the input file {path.absolute()} cannot be read: {reason}",
            Facts(hint=hint),
        ) from error
    return Payload(body, CONTENT_TYPES.get(path.suffix.lower(), BYTES))


def _text(text: str) -> Payload:
    try:
        return Payload(text.encode(), TEXT)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the input text is no Unicode text: {error}") from None


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
        raise InvalidInput(f"the input's read() gave {type_name(body)}: expected bytes or str")
    return Payload(bytes(body), CONTENT_TYPES.get(suffix, BYTES))


def _png(image: Any) -> Payload:
    buffer = io.BytesIO()
    try:
        if image.mode in ("CMYK", "HSV", "LAB", "YCbCr"):  # PNG has none of these
            image = image.convert("RGB")
        image.save(buffer, format="PNG", compress_level=COMPRESSION)
    except (AttributeError, OSError, ValueError) as error:
        raise InvalidInput(f"the input image cannot be written as PNG: {error}") from error
    return Payload(buffer.getvalue(), IMAGES[".png"])


def _json(value: Any) -> Payload:
    try:
        text = json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":"))
    except InvalidInput:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        # NaN and infinity are ValueErrors: JSON has no word for them.
        raise InvalidInput(f"the input cannot be written as JSON: {error}") from error
    return Payload(text.encode(), JSON)


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Path):
        if value.exists() and not value.is_file():
            raise InvalidInput(f"{value.absolute()} is not a file: inside JSON only files are read")
        return base64.b64encode(_file(value).body).decode()
    return plain(value)
