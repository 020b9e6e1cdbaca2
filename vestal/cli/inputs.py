"""Inputs of `vestal predict`: files, folders, rows of tables, texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vestal.batch.fields import Fields
from vestal.cli.output import shortened
from vestal.errors import UsageError
from vestal.files.folders import files_in
from vestal.files.tables import Table, is_table, read_table
from vestal_handlers.requests.numerals import number_in

SHORT = 60  # characters of a text in a table


@dataclass(frozen=True)
class CliInput:
    """One input.

    Attributes:
        value: what the client sends; for a row of a table, all columns until `fitted`.
        shown: the input in the table that is printed.
        fact: the input in the JSON that is printed.
        file: the file that it is, if it is a whole one.
        table: the table that it is a row of.
    """

    value: Any
    shown: str
    fact: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None
    table: Table | None = None

    @property
    def prompt(self) -> str:
        """The text that is sent; for other inputs the same as `shown`."""
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


def gather(files: Sequence[Path], texts: Sequence[str], rows: Sequence[str]) -> list[CliInput]:
    """All inputs, in the order files, texts, rows.

    Raises:
        UsageError: no input, a missing file, or an invalid row.
    """
    inputs = [each for file in expand(files) for each in _of_file(file)]
    inputs += [_of_text(text) for text in texts]
    inputs += [_of_row(row) for row in rows]
    if not inputs:
        raise UsageError("no input: pass files or folders, --text TEXT or --row NAME=NUMBER,...")
    return inputs


def expand(inputs: Sequence[Path]) -> list[Path]:
    """The files, and those in folders and their subfolders, sorted, without hidden ones.

    Raises:
        UsageError: a missing path, or a folder without files.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = files_in(path)
            if not found:
                raise UsageError(f"no files in {path}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"no file or folder {path}")
    return files


def fitted(inputs: Sequence[CliInput], schema: Mapping[str, Any]) -> list[CliInput]:
    """The same inputs, with only the columns of tables that the model takes.

    Args:
        schema: JSON Schema of the model's input, from its handler's description; empty: unknown.

    Raises:
        UsageError: a table that lacks columns that the model needs.
    """
    fields: dict[Path, Fields] = {}
    found = []
    for each in inputs:
        if each.table is not None:
            file = each.table.file
            fields[file] = fields.get(file) or Fields(schema, each.table.columns)
            each = _fitted(each, fields[file].value(each.value))
        found.append(each)
    return found


def _fitted(row: CliInput, value: str | dict[str, Any]) -> CliInput:
    if isinstance(value, str) or set(value) == {"text"}:
        text = value if isinstance(value, str) else str(value["text"])
        return replace(
            row, value=value, shown=shortened(text, SHORT), fact={**row.fact, "text": text}
        )
    return replace(row, value=value, shown=_short_row(value), fact={**row.fact, "columns": value})


def _of_file(file: Path) -> list[CliInput]:
    if not is_table(file):
        return [CliInput(file, str(file), {"file": str(file)}, file)]
    table = read_table(file)
    if not table.rows:
        raise UsageError(f"{file} has no rows")
    return [
        CliInput(row.values, "", {"file": str(file), "row": row.number}, table=table)
        for row in table.rows
    ]


def _of_text(text: str) -> CliInput:
    return CliInput(text, shortened(text, SHORT), {"text": text})


def _of_row(text: str) -> CliInput:
    """`bmi=25,bp=90,s5=4.5`, or the numbers alone in the model's order."""
    parts = [part.strip() for part in text.split(",")]
    names = [part.partition("=")[0].strip() for part in parts if "=" in part]
    if len(names) not in (0, len(parts)) or len(set(names)) < len(names) or not all(parts):
        raise UsageError(f"--row {text}: expected NAME=NUMBER,NAME=NUMBER or NUMBER,NUMBER")
    values = [_number_or_text(part.partition("=")[2] if names else part) for part in parts]
    row: Any = dict(zip(names, values, strict=True)) if names else values
    return CliInput(row, text, {"columns": row})


def _number_or_text(text: str) -> float | str:
    number = number_in(text)
    return text if number is None else number


def _short_row(row: Mapping[str, Any]) -> str:
    return shortened(", ".join(f"{name}={value}" for name, value in row.items()), SHORT)
