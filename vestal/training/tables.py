"""The user's own tables and texts as splits: CSV and JSON Lines, plain text. Split once: 70:10:20.

A recipe names its own file; `vestal train --data FILE` takes another one of the same columns.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vestal.errors import VestalError
from vestal.training.recipe import Splits
from vestal.training.splitting import SPLIT_SEED, split

FEWEST_ROWS = 12  # of a table: R2 needs two of a split, and a tenth of these validates
FEWEST = 10  # texts of a class: less cannot be split three ways
PIECES = 40  # of a plain text: what is held out is a 40th of it in one piece, several times
JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Rows:
    """Rows float32 [N, features] in their own units, and targets float32 [N]."""

    rows: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index], self.targets[index]

    def pick(self, indices: np.ndarray) -> Rows:
        chosen = torch.from_numpy(indices)
        return Rows(self.rows[chosen], self.targets[chosen])


@dataclass(frozen=True)
class Texts:
    """Texts and their classes; None where there are none (language)."""

    texts: Sequence[tuple[str, int | None]]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, int | None]:
        return self.texts[index]

    def pick(self, indices: Iterable[int]) -> Texts:
        return Texts([self.texts[int(index)] for index in indices])


def rows(data: Path | None = None, *, file: Path, features: Sequence[str], target: str) -> Splits:
    """A table of numbers, one row an example.

    Args:
        data: another table of these columns than `file`.

    Raises:
        VestalError: no such file or column, what is no finite number (line and column are named),
            or too few rows.
    """
    source = data or file
    table = read_table(source, (*features, target))
    if len(table) < FEWEST_ROWS:
        raise VestalError(f"{source} has {len(table)} rows: at least {FEWEST_ROWS} can be split")
    numbers = torch.tensor(
        [[_number(row[name], source, row, name) for name in (*features, target)] for row in table]
    )
    everything = Rows(numbers[:, :-1], numbers[:, -1])
    return split(everything, place=source)


def moments(values: Tensor) -> tuple[list[float], list[float]]:
    """Means and standard deviations of the columns of [N, columns]."""
    return values.mean(0).tolist(), values.std(0).tolist()


def labelled_texts(data: Path | None = None, *, file: Path) -> Splits:
    """A table with the columns `text` and `label`; the labels are the classes, sorted.

    Raises:
        VestalError: no such file or column, a text or label that is empty, a single class, or too
            few texts of one.
    """
    source = data or file
    table = read_table(source, ("text", "label"))
    for row in table:
        for name in ("text", "label"):
            if not isinstance(row[name], str | int) or not str(row[name]).strip():
                raise VestalError(f"{_place(source, row)}: the {name} is empty, or is no text")
    count = Counter(str(row["label"]).strip() for row in table)
    labels = sorted(count)
    few = [f"{label} has {count[label]}" for label in labels if count[label] < FEWEST]
    if few or len(labels) < 2:
        raise VestalError(
            f"{source} has {len(labels)} classes{': ' * bool(few)}{', '.join(few[:4])}; "
            f"at least 2 of {FEWEST} texts each can be learned and split"
        )
    classes = [labels.index(str(row["label"]).strip()) for row in table]
    texts = Texts([(str(r["text"]), c) for r, c in zip(table, classes, strict=True)])
    return split(texts, classes, labels, source)


def plain_text(data: Path | None = None, *, file: Path, context: int) -> Splits:
    """A text in UTF-8 to learn a language from: what is held out are whole pieces of it.

    Args:
        context: tokens that the model takes. A held-out passage has at most so many bytes, and a
            token is at least one.

    Raises:
        VestalError: no such file, not UTF-8, or too few lines to be split. Whether their tokens
            are enough for the model says `language.tokenize`.
    """
    source = data or file
    text = _read(source)
    lines = text.splitlines(keepends=True)
    if len(lines) < PIECES:
        raise VestalError(f"{source} has {len(lines)} lines: at least {PIECES} can be split")
    edges = [round(index * len(lines) / PIECES) for index in range(PIECES + 1)]
    pieces = ["".join(lines[a:b]) for a, b in pairwise(edges)]
    random.Random(SPLIT_SEED).shuffle(pieces)
    first, second = round(0.7 * PIECES), round(0.8 * PIECES)
    held_out = [passage for piece in pieces[second:] for passage in passages(piece, context)]
    parts = (pieces[:first], pieces[first:second], held_out)
    train, validation, test = (Texts([(text, None) for text in part]) for part in parts)
    return Splits(train, validation, test)


def read_table(source: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A CSV file with a header, or JSON Lines of objects (.jsonl, .ndjson), as it is written.

    Each row also has its line, under the key "".

    Raises:
        VestalError: no such file, no table, or a column that is missing.
    """
    text = _read(source)
    found: list[dict[str, Any]] = []
    if source.suffix.lower() in JSON_LINES:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                found.append({**_object(line, f"{source}, line {number}"), "": number})
        have = list(found[0]) if found else []
    else:
        # Not splitlines(), which ends a line at what is a character of a text (U+2028, \x0b) too.
        reader = csv.DictReader(io.StringIO(text, newline=""))
        have = list(reader.fieldnames or [])
        found = [{**row, "": reader.line_num} for row in reader]
    for row in found or [dict.fromkeys(have)]:
        missing = [name for name in columns if row.get(name) is None and found]
        missing = missing or [name for name in columns if name not in row]
        if missing:
            there = ", ".join(name for name in have if name)
            raise VestalError(
                f"{_place(source, row)}: no {missing[0]!r} (it needs the columns "
                f"{', '.join(columns)}; {source.name} has {there or 'none'})"
            )
    return found


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise VestalError(f"{place} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise VestalError(f"{place} must be a JSON object, got a {type(value).__name__}")
    return value


def _read(source: Path) -> str:
    try:
        return source.read_text("utf-8-sig")  # spreadsheets begin a CSV with a BOM
    except OSError as error:
        raise VestalError(f"{source} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise VestalError(f"{source} is not UTF-8 ({error.reason}): save it so") from None


def _number(given: Any, source: Path, row: Mapping[str, Any], name: str) -> float:
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise VestalError(f"{_place(source, row)}, column {name}: {given!r} is no finite number")
    return value


def _place(source: Path, row: Mapping[str, Any]) -> str:
    return f"{source}, line {row['']}" if row.get("") else str(source)


def passages(text: str, size: int) -> Iterator[str]:
    """Whole lines, at most `size` bytes at once; a longer line is cut."""
    passage = ""
    for line in text.splitlines(keepends=True):
        if passage and len((passage + line).encode()) > size:
            yield passage
            passage = ""
        passage += line
        while len(passage.encode()) > size:
            head = passage.encode()[:size].decode(errors="ignore")
            yield head
            passage = passage[len(head) :]
    if passage.strip():
        yield passage
