"""Requests that `vestal run` and `vestal diff` send: files, texts, JSON and stdin."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vestal.batch.fields import Fields
from vestal.cli.inputs import expand
from vestal.cli.output import shortened
from vestal.client.encoding import BYTES, JSON, TEXT
from vestal.errors import UsageError
from vestal.files.tables import Table, is_table, read_table
from vestal.inprocess.frontend import RawRequest
from vestal.recipes.request_body import content_type_of

STDIN = "-"
SHORT = 40  # characters of a text in the name of its request


@dataclass(frozen=True)
class RunInputs:
    """The arguments that name inputs; `bodies` are JSON."""

    files: Sequence[str] = ()
    texts: Sequence[str] = ()
    bodies: Sequence[str] = ()
    headers: Sequence[str] = field(default=())

    @property
    def places(self) -> list[Path]:
        """The files and folders."""
        return [Path(name) for name in self.files if name != STDIN]

    def read(self) -> list[RawRequest | TableInputs]:
        """Read the files as they are now.

        A table is read by rows, unless it is in a folder or a Content-Type header is set.

        Raises:
            UsageError: a missing file, a table that cannot be read, invalid JSON, a header without
                a colon.
        """
        headers = dict(_header(line) for line in self.headers)
        kinds = [name for name in headers if name.lower() == "content-type"]
        kind = headers.pop(kinds[-1]) if kinds else None
        bodies: list[tuple[str, bytes, str] | Table] = []
        for name in self.files:
            if name == STDIN:
                bodies.append(("stdin", self._stdin, BYTES))
                continue
            path = Path(name)
            if is_table(path) and path.is_file() and kind is None:
                bodies.append(read_table(path))
                continue
            bodies += [(str(f), _body(f), content_type_of(f)) for f in expand([path])]
        bodies += [(shortened(text, SHORT), text.encode(), TEXT) for text in self.texts]
        bodies += [(shortened(text, SHORT), _json(text), JSON) for text in self.bodies]
        return [
            TableInputs(one, headers)
            if isinstance(one, Table)
            else RawRequest(one[0], one[1], kind or one[2], headers)
            for one in bodies
        ]

    @cached_property
    def _stdin(self) -> bytes:
        return sys.stdin.buffer.read()


@dataclass(frozen=True)
class TableInputs:
    """A table whose rows are sent; their bodies depend on the model that receives them."""

    table: Table
    headers: Mapping[str, str]

    def sent(self, schema: Mapping[str, Any]) -> list[RawRequest]:
        """A request for each row.

        Raises:
            UsageError: the model needs columns that the table does not have.
        """
        fields = Fields(schema, self.table.columns)
        found = []
        for row in self.table.rows:
            body, kind = fields.body(row.values)
            found.append(
                RawRequest(f"{self.table.file}, row {row.number}", body, kind, self.headers)
            )
        return found


def requests_of(
    read: Sequence[RawRequest | TableInputs], schema: Callable[[], Mapping[str, Any]]
) -> list[RawRequest]:
    """Every request, in order.

    Args:
        schema: returns the JSON Schema of the model's input (empty: unknown); called only if
            there is a table.
    """
    known = schema() if any(isinstance(one, TableInputs) for one in read) else {}
    return [
        sent
        for one in read
        for sent in (one.sent(known) if isinstance(one, TableInputs) else [one])
    ]


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
            f"--body {shortened(text, SHORT)} is not JSON ({error}): a string needs its own "
            "quotes, as in --body '\"a text\"'; to send invalid JSON, use a file or - (stdin)"
        ) from None
    return text.encode()


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or not line.isprintable():
        raise UsageError(f"--header {line!r}: expected 'NAME: VALUE'")
    return name.strip(), value.strip()
