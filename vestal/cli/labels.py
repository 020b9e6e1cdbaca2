"""Where the truth about a file stands: in a table of labels, or in the name of its folder."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from vestal.errors import UsageError


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
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the labels in {table} cannot be read: {error}") from None
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise UsageError(f"{table}, line {number}: expected FILE,LABEL, got {','.join(row)!r}")
    return {file.strip(): label.strip() for file, label in rows}
