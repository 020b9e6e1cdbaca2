"""True labels of files: from a table, or from the names of their folders."""

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
    """The true label of each file; None: unknown.

    Args:
        table: lines of `FILE,LABEL`; FILE is the path of an input, or its name alone.
        known: labels of the model; folders with other names are ignored.

    Raises:
        UsageError: the table cannot be read, or names none of the files.
    """
    if table is None:
        return [f.parent.name if f.parent.name in known else None for f in files]
    truth = _read(table)
    found = [truth.get(str(file), truth.get(file.name)) for file in files]
    if files and not any(label is not None for label in found):
        raise UsageError(
            f"{table} has a label for none of the inputs: expected lines FILE,LABEL, such as "
            f"{files[0].name},LABEL"
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
                    f"{table}, line {reader.line_num}: {file} has the label {label}, but "
                    f"{truth[file]} in an earlier line"
                )
    except csv.Error as error:
        raise UsageError(f"{table}, line {reader.line_num}: invalid CSV ({error})") from None
    return truth


def _wrong(row: Sequence[str]) -> str:
    seems = [name for separator, name in SEPARATORS.items() if separator in row[0]]
    if len(row) == 1 and seems:
        return f"the columns seem to be separated by {seems[0]}; expected FILE,LABEL"
    return f"expected FILE,LABEL, got {','.join(row)!r}"
