"""Output of a batch run: a table of inputs, predictions and errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vestal.errors import UsageError
from vestal.files.storage import atomic_write

Row = Mapping[str, Any]
PLACE = ("file", "row")
PREDICTION = (
    *("actual", "predicted", "predicted_index", "probability"),
    *("units", "completion", "finish_reason", "prompt_tokens", "completion_tokens"),
    "answer",
)
OUTCOME = ("status", "error_type", "error_message")
RESERVED = (*PLACE, *PREDICTION, *OUTCOME)
"""Column names that an input table cannot have."""
FORMATS = (".csv", ".parquet", ".jsonl")
GROUP_ROWS = 10_000
"""Rows per Parquet row group."""


def prediction_columns(prediction: Any) -> dict[str, Any]:
    """Return the columns of a classifier's, regressor's or generator's prediction.

    Any other prediction is one column of JSON, `answer`.
    """
    if isinstance(prediction, Mapping):
        if {"label", "probability", "top"} <= prediction.keys():
            index = {"predicted_index": prediction["index"]} if "index" in prediction else {}
            named = {"predicted": prediction["label"], **index}
            return {**named, "probability": prediction["probability"]}
        if "prediction" in prediction:
            return {"predicted": prediction["prediction"], "units": prediction.get("units")}
        if "finish_reason" in prediction:
            counts = ("finish_reason", "prompt_tokens", "completion_tokens")
            named = {name: prediction[name] for name in counts if name in prediction}
            return {"completion": prediction.get("text"), **named}
    return {"answer": json.dumps(prediction, ensure_ascii=False)}


def check_format(out: Path) -> None:
    """Raise UsageError for an unknown file suffix."""
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: expected a file that ends in {', '.join(FORMATS)}")


def write_output(out: Path, rows: Callable[[], Iterator[Row]]) -> None:
    """Write the table atomically.

    Args:
        rows: returns an iterator over all rows; called once per pass. CSV and Parquet have the
            columns of all rows, a line of JSON has those of its own row.
    """
    with atomic_write(out) as file:
        {".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_jsonl}[out.suffix](
            file, rows
        )


def _write_csv(file: Path, rows: Callable[[], Iterator[Row]]) -> None:
    with file.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        columns = list(_columns(rows()))
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())


def _write_jsonl(file: Path, rows: Callable[[], Iterator[Row]]) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for row in rows():
            values = {name: value for name, value in row.items() if value is not None}
            stream.write(json.dumps(values, ensure_ascii=False) + "\n")


def _write_parquet(file: Path, rows: Callable[[], Iterator[Row]]) -> None:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    columns = _columns(rows())
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    source = rows()
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(source, GROUP_ROWS)):
            by_column = {name: [row.get(name) for row in group] for name in columns}
            writer.write_table(pyarrow.table(by_column, schema=schema))


def _columns(rows: Iterator[Row]) -> dict[str, type]:
    """Return the type of every column: place and input, then prediction, then outcome."""
    types: dict[str, type] = {}
    for row in rows:
        for name, value in row.items():
            before = types.setdefault(name, type(None))
            if value is not None and before is not str:
                types[name] = float if {before, type(value)} == {int, float} else type(value)
    inputs = [name for name in types if name not in RESERVED]
    always = dict.fromkeys((*PLACE, *OUTCOME), str) | {"row": int, "status": int}
    columns = {}
    for name in (*PLACE, *inputs, *PREDICTION, *OUTCOME):
        kind = types.get(name, type(None))
        if kind is not type(None):
            columns[name] = kind
        elif name in always or name in inputs:  # without any value
            columns[name] = always.get(name, str)
    return columns
