"""Java properties files, parsed as in Java, with the line of each value."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import javaproperties

from vestal.errors import UsageError, VestalError

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Properties:
    """The values of a properties file.

    Attributes:
        places: the place of each value, for messages: `FILE, line 3`.
        warnings: messages about the file.
    """

    source: Path
    values: Mapping[str, str]
    places: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)

    def invalid(self, key: str, expected: str) -> UsageError:
        """Return the error for an invalid value."""
        place = self.places.get(key, str(self.source))
        return UsageError(f"{place}: {key} is {self.values[key]!r}; expected {expected}")


def read_properties(source: Path) -> Properties:
    """Read a properties file.

    Raises:
        VestalError: the file cannot be read.
        UsageError: the file is UTF-16, or has a malformed `\\u` escape.
    """
    try:
        content = source.read_bytes()
    except OSError as error:
        raise VestalError(f"{source} cannot be read ({error.strerror})") from None
    warnings: list[str] = []
    text = _decode(source, content, warnings)
    values: dict[str, str] = {}
    places: dict[str, str] = {}
    line = 1
    elements = javaproperties.parse(text)
    while True:
        place = f"{source}, line {line}"
        try:
            element = next(elements, None)
        except javaproperties.InvalidUEscapeError as error:
            raise UsageError(
                f"{place}: {error.escape!r} is not a valid escape; expected \\u and four hex digits"
            ) from None
        if element is None:
            return Properties(source, values, places, warnings)
        if isinstance(element, javaproperties.KeyValue):
            key = element.key
            if key in values:
                warnings.append(f"{place}: {key} is set again; the last value counts")
            values[key], places[key] = element.value, place
            if (intended := _as_utf8(element.value)) is not None:
                warnings.append(
                    f"{place}: {key} is read as {element.value!r}, because properties files are "
                    f"ISO-8859-1; for {intended!r} write {javaproperties.escape(intended)}"
                )
        line += len(_LINE_END.findall(element.source))


def write_properties(values: Mapping[str, str]) -> str:
    """Return the text of a properties file with these values, in ASCII."""
    return javaproperties.dumps(values, timestamp=None)


def _decode(source: Path, content: bytes, warnings: list[str]) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(f"{source} is encoded as UTF-16; save it as ASCII or UTF-8")
    if not content.startswith(codecs.BOM_UTF8):
        return content.decode("latin-1")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source} begins with a UTF-8 byte order mark but is not UTF-8 ({error})"
        ) from None
    warnings.append(
        f"{source} begins with a byte order mark (BOM); `vestal serve` ignores it, but a plain "
        "`torchserve` reads it as part of the first key. Save the file without it"
    )
    return text


def _as_utf8(value: str) -> str | None:
    """Return what a UTF-8 editor shows for a value; None if it equals what Java reads."""
    if value.isascii():
        return None
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return None
