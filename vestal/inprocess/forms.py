"""Parse form bodies into the parts that TorchServe passes to a handler.

What curl, browsers, Node, requests and httpx send gives the same parts as on a server
(tests/forms/recorded.json); docs/guides/run-and-compare.md lists the differences for other bodies.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote_to_bytes

from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_options_header

from vestal.inprocess.messages import RefusedRequest

Parts = dict[str, tuple[bytes, str]]

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
BYTES = "application/octet-stream"
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ERROR = "ErrorDataDecoderException"

# It logs the message of every error that it raises.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary of a multipart form; None if TorchServe passes the body on unparsed."""
    kind, options = parse_options_header(content_type)
    return options.get(b"boundary") if kind == MULTIPART.encode() else None


def read_multipart(body: bytes, boundary: bytes) -> Parts:
    """Return bytes and content type by name; of several parts with one name, the last.

    Raises:
        RefusedRequest: the body is not a multipart form with this boundary.
    """
    parts: Parts = {}

    def add_field(field: Field) -> None:
        parts[_part_name(field.field_name)] = (field.value or b"", "")

    def add_file(file: File) -> None:
        file.file_object.seek(0)
        kind = (file.content_type or BYTES).partition(";")[0].strip()
        parts[_part_name(file.field_name)] = (file.file_object.read(), kind)

    # With this limit, no file is written to disk.
    in_memory = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    try:
        parser = FormParser(MULTIPART, add_field, add_file, boundary=boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusedRequest(500, _ERROR, f"the form cannot be parsed: {error}") from None
    return parts


def read_urlencoded(body: bytes) -> Parts:
    """Return the values by name, up to the first line end in a value.

    Raises:
        RefusedRequest: a name is empty, or a percent sign has no two hexadecimal digits.
    """
    parts: Parts = {}
    *fields, last = body.split(b"&")
    for field in [*fields, last] if b"=" in last else fields:
        name, _, value = field.partition(b"=")
        value, *rest = re.split(rb"[\r\n]", value, maxsplit=1)
        if _BAD_ESCAPE.search(name) or _BAD_ESCAPE.search(value):
            raise RefusedRequest(500, _ERROR, f"invalid percent-encoding in {field[:80]!r}")
        parts[_checked(_unquoted(name).decode("utf-8", "replace"))] = (_unquoted(value), "")
        if rest:
            break
    return parts


def _unquoted(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _part_name(name: bytes | None) -> str:
    """Replace what TorchServe's frontend (netty) replaces in the name of a part."""
    text = (name or b"").decode("utf-8", "replace").replace('"', "")
    return _checked(re.sub(r"[:,=;\t]", " ", text).strip())


def _checked(name: str) -> str:
    name = re.sub(r"[\r\t]", " ", name.replace("\n", "")).strip(" \v\f")
    if not name:
        raise RefusedRequest(500, _ERROR, "a field of the form has an empty name")
    return name
