"""Text files that users give: UTF-8, with or without a byte order mark, in lines."""

from __future__ import annotations

import codecs
from pathlib import Path

from vestal.errors import UsageError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(file: Path) -> str:
    """Return a file's text without its byte order mark; its line ends stay as they are.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = "is UTF-16" if content.startswith(_UTF_16) else f"is not UTF-8 (byte {error.start})"
        raise UsageError(f"{file} {found}: save it as UTF-8") from None


def lines_of(text: str, *, ends: bool = False) -> list[str]:
    r"""Return the lines of a text, which end at \n or \r\n.

    Not `splitlines`: it also ends a line at characters that texts hold, such as U+2028 and \x0b.

    Args:
        ends: keep the line ends, as `splitlines(keepends=True)` does.
    """
    lines = [f"{line}\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    lines += [last] if last else []
    return lines if ends else [line.removesuffix("\n").removesuffix("\r") for line in lines]
