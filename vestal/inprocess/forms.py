"""Reads form bodies as TorchServe's frontend (netty 4.1) does, which is not as the RFCs do.

It takes a line feed for an end of line, the parts before a body's sudden end, and of several
parameters of a part's Content-Type the last; it refuses what has no name. A handler tried here must
get what it gets there, so no general parser will do: of 531 multipart bodies, most of them
mutated, python-multipart read 121 otherwise than a running server, this one 1.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from vestal.inprocess.messages import RefusedRequest

Parts = dict[str, tuple[bytes, str]]

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
BYTES = "application/octet-stream"
_TRIMMED = "".join(map(chr, range(0x21)))  # by Java's trim()
_SKIPPED = bytes([*range(0x21), *range(0x7F, 0xA0)])  # controls and the space
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ENCODINGS = ("7bit", "8bit", "binary")
_DECODER = "ErrorDataDecoderException"


def boundary_of(content_type: str) -> str | None:
    """The boundary of a multipart form; None: to TorchServe it is no form at all.

    Raises:
        RefusedRequest: the boundary is empty.
    """
    _, *parameters = [part.strip() for part in content_type.split(";", 2)]
    if not content_type.startswith(MULTIPART):
        return None
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if name.lower().startswith("boundary"):
            if not equals:
                raise RefusedRequest(500, _DECODER, "Needs a boundary value")
            if not value:
                raise RefusedRequest(
                    500, "StringIndexOutOfBoundsException", "the boundary is empty"
                )
            value = value.partition(";")[0].strip()
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            return value[1:-1] if quoted else value
    return None


def read_multipart(body: bytes, boundary: str) -> Parts:
    """The parts that end before the body does, by name: the last of a name counts.

    Raises:
        RefusedRequest: a part without a name, or with headers that cannot be.
    """
    delimiter = b"--" + boundary.encode("utf-8")
    parts: Parts = {}
    at = _after_delimiter(body, 0, delimiter)
    while at is not None:
        fields, at = _headers(body, at)
        if at is None:
            break
        name, kind = _name_and_type(fields)
        # Only at a line's start; a part without content ends at its headers' own line end.
        end = at - 1 if body.startswith(delimiter, at) else body.find(b"\n" + delimiter, at)
        if end < 0:
            break
        parts[name] = (body[at:end].removesuffix(b"\r"), kind)
        at = _after_delimiter(body, end, delimiter)
    return parts


def read_urlencoded(body: bytes) -> Parts:
    """The named values, up to the first line's end.

    Raises:
        RefusedRequest: a name is empty, an escape is none, or a carriage return stands alone.
    """
    parts: Parts = {}
    at = 0
    while at < len(body):
        stop = re.compile(rb"[=&]").search(body, at)
        if stop is None:
            break
        name = _decoded_name(body[at : stop.start()])
        at = stop.end()
        if stop.group() == b"&":
            parts[_stripped(name)] = (b"", "")
            continue
        end = re.compile(rb"[&\r\n]").search(body, at)
        value = body[at : end.start() if end else len(body)]
        closed = end is None or end.group() != b"&"
        if end and end.group() == b"\r" and body[end.end() : end.end() + 1] not in (b"\n", b""):
            raise RefusedRequest(500, _DECODER, "Bad end of line")
        if _BAD_ESCAPE.search(value):
            raise RefusedRequest(500, _DECODER, f"Invalid hex byte in {_shown(value)}")
        parts[_stripped(name)] = (unquote_to_bytes(value.replace(b"+", b" ")), "")
        if closed:
            break
        assert end is not None
        at = end.end()
    return parts


def _decoded_name(raw: bytes) -> str:
    if _BAD_ESCAPE.search(raw):
        raise RefusedRequest(500, _DECODER, f"Bad string: {_shown(raw)}")
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "replace")


def _after_delimiter(body: bytes, at: int, delimiter: bytes) -> int | None:
    """Where a part's headers start; None: no part follows."""
    while at < len(body) and body[at] in _SKIPPED:
        at += 1
    if not body.startswith(delimiter, at):
        return None
    at += len(delimiter)
    for line_end in (b"\r\n", b"\n"):
        if body.startswith(line_end, at):
            return at + len(line_end)
    return None


def _headers(body: bytes, at: int) -> tuple[dict[str, str], int | None]:
    """What a part's headers say, and where its content starts; None: the body ends before."""
    found: dict[str, str] = {}
    while True:
        for line_end in (b"\r\n", b"\n"):
            if body.startswith(line_end, at):
                return found, at + len(line_end)
        while at < len(body) and body[at] in _SKIPPED:
            at += 1
        end = body.find(b"\n", at)
        if end < 0:
            return found, None
        line = body[at:end]
        _read_header(line.removesuffix(b"\r").decode("utf-8", "replace"), found)
        at = end + 1


def _read_header(line: str, found: dict[str, str]) -> None:
    """Adds what one header says, by lower-case name."""
    words = re.match(r"\s*([^:\s]*)[^:]*:?\s*(.*?)\s*$", line, re.DOTALL)
    assert words is not None
    name, values = words[1].lower(), list(_values(words[2]))
    if name == "content-disposition" and values[0].lower() == "form-data":
        for value in values[1:]:
            key, equals, text = value.partition("=")
            if not equals:
                reason = f"Content-Disposition: {value!r} has no value"
                raise RefusedRequest(500, "ArrayIndexOutOfBoundsException", reason)
            _add(found, _clean(key), text)
    elif name in ("content-transfer-encoding", "content-length"):
        found[name] = _clean(values[0])
    elif name == "content-type":
        for value in values:
            if value.lower().startswith("charset"):
                found["charset"] = _clean(value.partition("=")[2])
            else:
                found["content-type"] = value


def _add(found: dict[str, str], key: str, text: str) -> None:
    if key == "filename*":
        charset, _, rest = _clean(text).partition("'")
        if "'" not in rest:
            raise RefusedRequest(500, _DECODER, "filename* is not CHARSET'LANGUAGE'NAME")
        _check_charset(charset)
        key = "filename"
    if not key:
        raise RefusedRequest(500, _DECODER, "a parameter of Content-Disposition has an empty name")
    found[key.lower()] = _clean(text)


def _name_and_type(fields: dict[str, str]) -> tuple[str, str]:
    """A file has a content type, a field has none."""
    if "charset" in fields:
        _check_charset(fields["charset"])
    if "filename" in fields:
        encoding = fields.get("content-transfer-encoding", _ENCODINGS[0]).lower()
        if encoding not in _ENCODINGS:
            raise RefusedRequest(500, _DECODER, f"TransferEncoding Unknown: {encoding}")
    if "name" not in fields:
        raise RefusedRequest(500, _DECODER, "a part of the form has no name")
    kind = fields.get("content-type", BYTES) if "filename" in fields else ""
    return _stripped(fields["name"]), kind


def _values(text: str) -> Iterator[str]:
    """The parts of a header's value: at semicolons outside of quotes, else at commas."""
    if ";" not in text:
        yield from (part.strip() for part in text.split(","))
        return
    part, quoted, escaped = "", False, False
    for character in text:
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character == ";":
            yield part.strip()
            part = ""
            continue
        part += character
    yield part.strip()


def _clean(text: str) -> str:
    return re.sub(r"[:,=;\t]", " ", text.replace('"', "")).strip(_TRIMMED)


def _stripped(name: str) -> str:
    name = re.sub(r"[\r\t]", " ", name.replace("\n", "")).strip(" \v\f")
    if not name:
        raise RefusedRequest(500, _DECODER, "a field has an empty name")
    return name


def _check_charset(name: str) -> None:
    try:
        codecs.lookup(name)
    except (LookupError, ValueError):
        raise RefusedRequest(500, _DECODER, f"no charset {name!r}") from None


def _shown(data: bytes) -> str:
    return repr(data[:80].decode("utf-8", "replace"))
