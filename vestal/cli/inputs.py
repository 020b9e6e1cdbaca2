"""What `vestal predict` is given: files, folders, rows of a table, texts, rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vestal.batch.fields import Fields
from vestal.errors import UsageError
from vestal.files.folders import files_in
from vestal.files.tables import Table, is_table, read_table
from vestal_handlers.requests.numerals import number_in

SHORT = 60  # characters of a text in a table


@dataclass(frozen=True)
class Given:
    """One input.

    `value`: what the client sends. `shown`: for a table; `fact`: for JSON. `file`: where it is a
    whole file. `table`: of which it is a row, all of whose columns are the value until `fitted`.
    """

    value: Any
    shown: str
    fact: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    table: Table | None = None

    @property
    def prompt(self) -> str:
        """The text that was sent, where it was one; else how it is shown."""
        value = self.value
        try:
            if self.file is not None and self.file.suffix in (".txt", ".json"):
                value = self.file.read_bytes()
                value = json.loads(value) if self.file.suffix == ".json" else value
            value = value.get("prompt") if isinstance(value, dict) else value
            value = value.decode("utf-8-sig") if isinstance(value, bytes) else value
        except (OSError, ValueError):
            return self.shown
        return value if isinstance(value, str) else self.shown


def gather(files: Sequence[Path], texts: Sequence[str], rows: Sequence[str]) -> list[Given]:
    """All inputs in the order: files, texts, rows.

    Raises:
        UsageError: none at all, a file that is not there, or a row that cannot be read.
    """
    given = [one for file in expand(files) for one in _of_file(file)]
    given += [_of_text(text) for text in texts]
    given += [_of_row(row) for row in rows]
    if not given:
        raise UsageError(
            "nothing to predict: give files or folders, --text TEXT or --row NAME=1,..."
        )
    return given


def expand(inputs: Sequence[Path]) -> list[Path]:
    """Files as they are; of a folder every file below it but hidden ones, sorted.

    Raises:
        UsageError: a path that is not there, or a folder without files.
    """
    files: list[Path] = []
    for given in inputs:
        if given.is_dir():
            found = files_in(given)
            if not found:
                raise UsageError(f"no files in {given}")
            files += found
        elif given.is_file():
            files.append(given)
        else:
            raise UsageError(f"no file or folder {given}")
    return files


def fitted(given: Sequence[Given], schema: Mapping[str, Any]) -> list[Given]:
    """The same inputs, where rows of tables are what a model takes of them.

    Args:
        schema: of the model's input, as its handler describes it; empty: not known.

    Raises:
        UsageError: a table without the columns that the model needs.
    """
    fields: dict[Path, Fields] = {}
    found = []
    for one in given:
        if one.table is not None:
            file = one.table.file
            fields[file] = fields.get(file) or Fields(schema, one.table.columns)
            one = _fitted(one, fields[file].value(one.value))
        found.append(one)
    return found


def _fitted(row: Given, value: str | dict[str, Any]) -> Given:
    if isinstance(value, str) or set(value) == {"text"}:
        text = value if isinstance(value, str) else str(value["text"])
        return replace(row, value=value, shown=_short(text), fact={**row.fact, "text": text})
    return replace(row, value=value, shown=_short_row(value), fact={**row.fact, "columns": value})


def _of_file(file: Path) -> list[Given]:
    if not is_table(file):
        return [Given(file, str(file), {"file": str(file)}, file)]
    table = read_table(file)
    if not table.rows:
        raise UsageError(f"{file} has no rows")
    return [
        Given(row.values, "", {"file": str(file), "row": row.number}, table=table)
        for row in table.rows
    ]


def _of_text(text: str) -> Given:
    return Given(text, _short(text), {"text": text})


def _of_row(said: str) -> Given:
    """`bmi=25,bp=90,s5=4.5`, or the numbers alone in the model's order."""
    parts = [part.strip() for part in said.split(",")]
    names = [part.partition("=")[0].strip() for part in parts if "=" in part]
    if len(names) not in (0, len(parts)) or len(set(names)) < len(names) or not all(parts):
        raise UsageError(f"--row {said}: expected NAME=NUMBER,NAME=NUMBER or NUMBER,NUMBER")
    values = [_number_or_text(part.partition("=")[2] if names else part) for part in parts]
    row: Any = dict(zip(names, values, strict=True)) if names else values
    return Given(row, said, {"columns": row})


def _number_or_text(text: str) -> float | str:
    number = number_in(text)
    return text if number is None else number


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHORT else f"{line[: SHORT - 1]}…"


def _short_row(row: Mapping[str, Any]) -> str:
    return _short(", ".join(f"{name}={value}" for name, value in row.items()))
