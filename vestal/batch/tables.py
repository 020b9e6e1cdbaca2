"""Finished runs: one table of inputs, answers and errors, written whole or not at all."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vestal.batch.columns import FIRST, LAST, SAID
from vestal.errors import UsageError
from vestal.files.storage import whole

Row = Mapping[str, Any]
FORMATS = (".csv", ".parquet", ".jsonl")
ROWS_AT_ONCE = 10_000  # of a Parquet row group


def check_format(out: Path) -> None:
    """Raises UsageError where the suffix is none that can be written."""
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: expected a file that ends in {', '.join(FORMATS)}")


def write(out: Path, rows: Callable[[], Iterator[Row]]) -> None:
    """Writes beside `out`, then renames.

    Args:
        rows: gives them from the first one on, by column, every time that it is called. Of all
            columns `.jsonl` alone has each row's own.
    """
    with whole(out) as fresh:
        {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl}[out.suffix](fresh, rows)


def _csv(file: Path, rows: Callable[[], Iterator[Row]]) -> None:
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        columns = list(_columns(rows()))
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())


def _jsonl(file: Path, rows: Callable[[], Iterator[Row]]) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for row in rows():
            kept = {name: value for name, value in row.items() if value is not None}
            stream.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _parquet(file: Path, rows: Callable[[], Iterator[Row]]) -> None:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    columns = _columns(rows())
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    source = rows()
    with parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(source, ROWS_AT_ONCE)):
            by_column = {name: [row.get(name) for row in some] for name in columns}
            writer.write_table(pyarrow.table(by_column, schema=schema))


def _columns(rows: Iterator[Row]) -> dict[str, type]:
    """What any row has, and its type: inputs first, answers then, errors last."""
    found: dict[str, type] = {}
    for row in rows:
        for name, value in row.items():
            before = found.setdefault(name, type(None))
            if value is not None and before is not str:
                found[name] = float if {before, type(value)} == {int, float} else type(value)
    known = [name for name in (*FIRST, *found) if name not in (*SAID, *LAST)]
    order = [*dict.fromkeys(known), *SAID, *LAST]
    always = (*FIRST, *LAST)
    default = dict.fromkeys(always, str) | {"row": int, "status": int}
    kinds = {name: found.get(name, type(None)) for name in order}
    return {
        name: default.get(name, str) if kind is type(None) else kind
        for name, kind in kinds.items()
        if name in always or (name in found and (kind is not type(None) or name not in SAID))
    }
