"""Count responses with 5xx of each version, from TorchServe's access log.

TorchServe's metrics do not count them by version. Our log4j2.xml writes only these responses into
the access log: `... "POST /predictions/mnist/2.0 HTTP/1.1" 503 98`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

_LINE = re.compile(r'"[A-Z]+ (\S+) HTTP/1\.[01]" 5\d\d \d+$')
_PATHS = (
    re.compile(r"/(?:predictions|explanations)/([^/?]+)(?:/([^/?]+))?"),
    re.compile(r"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer"),
    re.compile(r"/v1/models/([^/?:]+)():predict"),
)


class FailedRequests:
    """Reads a log from where it ends now; it follows the log when a new file begins."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file: BinaryIO | None = None
        self._rest = b""
        if (file := self._open()) is not None:
            file.seek(0, os.SEEK_END)

    def read(self) -> list[tuple[str, str | None]]:
        """Return model and version (None: the default) of each failure since the last call.

        Raises:
            OSError: the log cannot be read.
        """
        text = self._read_new()
        if self._is_replaced():
            self.close()
            self._open()
            text += self._read_new()
        *lines, self._rest = (self._rest + text).split(b"\n")
        found = (failed_version(line.decode("utf-8", "replace")) for line in lines)
        return [version for version in found if version is not None]

    def close(self) -> None:
        """Close the log."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO | None:
        try:
            self._file = self._log.open("rb")
        except FileNotFoundError:
            self._file = None
        return self._file

    def _read_new(self) -> bytes:
        return b"" if self._file is None else self._file.read()

    def _is_replaced(self) -> bool:
        if self._file is None:
            return True
        try:
            return not os.path.samestat(self._log.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False  # between the renaming and the new file


def failed_version(line: str) -> tuple[str, str | None] | None:
    """Return model and version of a line in the access log; None for other requests."""
    found = _LINE.search(line.rstrip())
    if found is None:
        return None
    for path in _PATHS:
        if named := path.match(found[1]):
            return unquote(named[1]), unquote(named[2]) if named[2] else None
    return None
