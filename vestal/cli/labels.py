"""Where the truth about a file stands: in a table of labels, or in the name of its folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path

from vestal.errors import UsageError
from vestal.files.tables import SEPARATORS
from vestal.files.text import read_text


def actual_labels(
    files: Sequence[Path], table: Path | None, known: Collection[str]
) -> list[str | None]:
    """The true label of each file; None where it is not known.

    Args:
        table: lines of `FILE,LABEL`; FILE is a path as given, or a file's name alone.
        known: the labels that the model uses: a folder of another name says nothing.

    Raises:
        UsageError: the table cannot be read, or speaks of none of the files.
    """
    if table is None:
        return [f.parent.name if f.parent.name in known else None for f in files]
    truth = _read(table)
    found = [truth.get(str(file), truth.get(file.name)) for file in files]
    if files and not any(label is not None for label in found):
        raise UsageError(
            f"{table} names none of the files that were given ({len(files)}): its lines must be "
            f"FILE,LABEL with FILE such as {files[0].name}"
        )
    return found


def _read(table: Path) -> dict[str, str]:
    reader = csv.reader(io.StringIO(read_text(table), newline=""), strict=True)
    truth: dict[str, str] = {}
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != 2:
                raise UsageError(f"{table}, line {reader.line_num}: {_wrong(row)}")
            file, label = (cell.strip() for cell in row)
            if truth.setdefault(file, label) != label:
                raise UsageError(
                    f"{table}, line {reader.line_num}: {file} has the label {label}, and "
                    f"{truth[file]} in an earlier line"
                )
    except csv.Error as error:
        raise UsageError(f"{table}, line {reader.line_num}, is not CSV: {error}") from None
    return truth


def _wrong(row: Sequence[str]) -> str:
    seems = [name for separator, name in SEPARATORS.items() if separator in row[0]]
    if len(row) == 1 and seems:
        return f"the columns seem to be separated by {seems[0]}; expected FILE,LABEL"
    return f"expected FILE,LABEL, got {','.join(row)!r}"
