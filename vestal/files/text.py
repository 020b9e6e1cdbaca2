"""Text files of users: UTF-8, with or without a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from vestal.errors import UsageError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(file: Path) -> str:
    """Return a file's text without its byte order mark, with its original line ends.

    Raises:
        UsageError: the file cannot be read or is not UTF-8.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = (
            "is UTF-16" if content.startswith(_UTF_16) else f"is not UTF-8 (byte {error.start})"
        )
        raise UsageError(f"{file} {reason}: save it as UTF-8") from None


def lines_of(text: str, *, ends: bool = False) -> list[str]:
    r"""Return the lines of a text, which end at \n or \r\n.

    `str.splitlines` also ends lines at characters such as U+2028 and \x0b, which texts contain.

    Args:
        ends: keep the line ends.
    """
    lines = [f"{line}\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    lines += [last] if last else []
    return lines if ends else [line.removesuffix("\n").removesuffix("\r") for line in lines]
