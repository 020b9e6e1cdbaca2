"""Decompress and parse the body of a request, within limits."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

from vestal_handlers.errors import InputError
from vestal_handlers.options import Options

_fast_loads: Callable[[bytes | bytearray], Any]
try:
    import orjson

    _fast_loads = orjson.loads
except ImportError:  # the standard library is slower
    _fast_loads = json.loads

_GZIP = 31  # zlib's window bits for a gzip header


def media_type(content_type: str | None) -> str:
    """Normalize a Content-Type: `Application/JSON; charset=utf-8` to `application/json`."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")


def decompress(data: bytes | bytearray, encoding: str, options: Options) -> bytes | bytearray:
    """Decompress a body by its `Content-Encoding`; TorchServe does not.

    Raises:
        InputError: 400 not gzip, 413 too large before or after decompression, 415 another encoding.
    """
    check_size(len(data), options)
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip"):
        raise InputError(415, f"Content-Encoding {encoding[:40]!r} is unknown; send gzip, or none")
    decompressor = zlib.decompressobj(_GZIP)
    try:
        plain = decompressor.decompress(data, options.max_bytes + 1)
    except zlib.error:
        plain = b""
    check_size(len(plain), options)
    if not decompressor.eof:
        raise InputError(400, "Content-Encoding is gzip, but the body is not gzip or ends early")
    return plain


def check_size(size: int, options: Options) -> None:
    """Raise InputError 413 for a request of more than `handler.max_bytes`."""
    if size > options.max_bytes:
        raise InputError(
            413, f"more than {options.max_bytes:,} bytes in one request (handler.max_bytes)"
        )


def parse_json(data: bytes | bytearray, options: Options) -> Any:
    """Parse JSON of limited size, number of values and depth.

    NaN and infinity are accepted, as if TorchServe parses the body; validation refuses them later.

    Raises:
        InputError: 400 not JSON, 413 too large, too many values or too deep.
    """
    if len(data) > options.max_json_bytes:
        raise InputError(
            413,
            f"JSON of {len(data):,} bytes, at most {options.max_json_bytes:,} "
            "(handler.max_json_bytes); send an image as the body itself",
        )
    # An upper bound: each value but the first follows one of these characters.
    check_values(1 + sum(map(data.count, (b",", b"[", b"{"))), options)
    try:
        value = _fast_loads(data)
    except (ValueError, RecursionError):
        try:
            value = json.loads(data)
        except RecursionError:
            raise _too_deep(options) from None
        except ValueError as error:
            raise InputError(400, f"the body is not JSON: {error}"[:300]) from None
        check_text(value)
    check_depth(value, options)
    return value


def check_values(count: int, options: Options) -> None:
    """Raise InputError 413 for more than `handler.max_values`."""
    if count > options.max_values:
        raise InputError(
            413, f"more than {options.max_values:,} values in one request (handler.max_values)"
        )


def check_depth(value: Any, options: Options) -> None:
    """Raise InputError 413 for JSON deeper than `handler.max_depth` or with too many values."""
    level = [value] if isinstance(value, dict | list) else []
    count = 1
    for _ in range(options.max_depth):
        if not level:
            return
        count += sum(map(len, level))
        check_values(count, options)
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    if not level:
        return
    raise _too_deep(options)


def _too_deep(options: Options) -> InputError:
    return InputError(413, f"JSON deeper than {options.max_depth} levels (handler.max_depth)")


def check_text(value: Any) -> None:
    """Raise InputError 400 for a lone surrogate in a string, which is not valid Unicode."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(400, "a string in the JSON is not Unicode (lone surrogate)") from None
