"""Tables of users, read the same way by every command: CSV with a header, JSON Lines."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import UsageError
from vestal.files.text import read_text
from vestal_handlers.requests.numerals import number_in

CSV = ".csv"
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (CSV, *JSON_LINES)
# Common notations of a missing value.
MISSING = ("", "-", "?", "n/a", "na", "nan", "none", "null")
_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)  # maybe half of a pair
SEPARATORS = {";": "';'", "\t": "tabs"}
_LISTED = 20
"""Columns that a message lists."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: from 1, without a CSV's header.
        line: last line of the row in the file.
        values: by column; strings in a CSV, JSON values in JSON Lines.
    """

    number: int
    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table's columns and rows, in the order of its file."""

    file: Path
    columns: Sequence[str]
    rows: Sequence[Row]

    def place(self, row: Row, column: str) -> str:
        """Describe the place of a cell, for a message."""
        return f"{self.file}, row {row.number} (line {row.line}), column {column}"

    def require(self, columns: Sequence[str]) -> None:
        """Raise UsageError if a column is missing in the table or in one of its rows."""
        needed = f"the columns {', '.join(columns)} are needed"
        for name in columns:
            if name not in self.columns:
                raise UsageError(f"{self.file} has no column {name!r}; {needed}, it has {self}")
            for row in self.rows:
                if name not in row.values:
                    raise UsageError(f"{self.place(row, name)}: missing; {needed}")

    def __str__(self) -> str:
        more = ", ..." if len(self.columns) > _LISTED else ""
        return ", ".join(self.columns[:_LISTED]) + more


def is_table(file: Path) -> bool:
    """Return whether a file is a table, by its suffix."""
    return file.suffix.lower() in TABLES


def read_table(file: Path) -> Table:
    """Read a CSV file, whose first line names the columns, or JSON Lines of objects.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, has several columns of one name, rows of
            different lengths, or columns that are not separated by commas.
    """
    text = read_text(file)
    columns, rows = (
        _json_lines(file, text) if file.suffix.lower() in JSON_LINES else _csv(file, text)
    )
    several = [name for name, count in Counter(columns).items() if count > 1]
    if several:
        names = ", ".join(map(repr, several))
        raise UsageError(f"{file} has several columns named {names}: give each column its own name")
    return Table(file, columns, rows)


def cell_number(value: Any) -> int | float | None:
    """Return the finite number in a cell; None if it is not a number."""
    if isinstance(value, str):
        return number_in(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def is_missing(value: Any) -> bool:
    """Return whether a cell means that the value is missing."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def _csv(file: Path, text: str) -> tuple[list[str], list[Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next((fields for fields in reader if fields), [])
        _check_columns(file, text, columns)
        rows: list[Row] = []
        for fields in reader:
            if not fields:
                continue  # a blank line
            row = Row(len(rows) + 1, reader.line_num, dict(zip(columns, fields, strict=False)))
            if len(fields) != len(columns):
                raise UsageError(
                    f"{file}, row {row.number} (line {row.line}) has {len(fields)} fields; the "
                    f"first line names {len(columns)} columns"
                )
            rows.append(row)
    except csv.Error as error:
        raise UsageError(f"{file}, line {reader.line_num}, is not CSV: {error}") from None
    return columns, rows


def _check_columns(file: Path, text: str, columns: Sequence[str]) -> None:
    if not any(columns):
        raise UsageError(f"{file} is empty: the first line must name the columns")
    header = text.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    for separator, name in SEPARATORS.items():
        if len(next(csv.reader([header], delimiter=separator))) > len(columns):
            raise UsageError(
                f"{file}: the columns seem to be separated by {name}. Save the table with commas "
                "between the columns and points in the numbers"
            )


def _json_lines(file: Path, text: str) -> tuple[list[str], list[Row]]:
    rows: list[Row] = []
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            rows.append(Row(len(rows) + 1, line, _object(content, f"{file}, line {line}")))
    return list(dict.fromkeys(name for row in rows for name in row.values)), rows


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_pairs, parse_int=_integer)
        if _SURROGATE.search(line):
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}, is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{place}, must be a JSON object, not a {type(value).__name__}")
    return value


def _pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        several = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"several values named {', '.join(map(repr, several))}")
    return found


def _integer(text: str) -> int | float:
    number = number_in(text)
    return math.inf if number is None else number
