"""What `vestal run` sends: files, texts, JSON and stdin, with the types that callers give them."""

from __future__ import annotations

import json
import mimetypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from vestal.archive.frontend import Sent
from vestal.cli.inputs import expand
from vestal.client.encoding import BYTES, CONTENT_TYPES, JSON, TEXT
from vestal.errors import UsageError

STDIN = "-"
_TYPES = mimetypes.MimeTypes()  # Python's own table: the same on every machine


@dataclass(frozen=True)
class Given:
    """The arguments of one command."""

    files: Sequence[str] = ()
    texts: Sequence[str] = ()
    data: Sequence[str] = ()
    headers: Sequence[str] = field(default=())

    @property
    def places(self) -> list[Path]:
        """The files and folders."""
        return [Path(name) for name in self.files if name != STDIN]

    def read(self) -> list[Sent]:
        """Reads the files as they are now.

        Raises:
            UsageError: a file that is not there, JSON that is none, a header without a colon.
        """
        headers = dict(_header(line) for line in self.headers)
        kinds = [name for name in headers if name.lower() == "content-type"]
        kind = headers.pop(kinds[-1]) if kinds else None
        found = []
        for name in self.files:
            if name == STDIN:
                found.append(("stdin", self._stdin, BYTES))
            else:
                found += [(str(f), _body(f), content_type_of(f)) for f in expand([Path(name)])]
        found += [(_short(text), text.encode(), TEXT) for text in self.texts]
        found += [(_short(text), _json(text), JSON) for text in self.data]
        return [Sent(name, body, kind or own, headers) for name, body, own in found]

    @cached_property
    def _stdin(self) -> bytes:
        return sys.stdin.buffer.read()


def content_type_of(file: Path) -> str:
    """By its suffix."""
    known = CONTENT_TYPES.get(file.suffix.lower())
    return known or _TYPES.guess_type(file.name)[0] or BYTES


def _body(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None


def _json(text: str) -> bytes:
    try:
        json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"--data {_short(text)} is not JSON ({error}): a string needs its own quotes, as in "
            "--data '\"a text\"'; broken JSON can be sent from a file or as - (stdin)"
        ) from None
    return text.encode()


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or not line.isprintable():
        raise UsageError(f"--header {line!r}: expected 'NAME: VALUE'")
    return name.strip(), value.strip()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else f"{line[:37]}..."
