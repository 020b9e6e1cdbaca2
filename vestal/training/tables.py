"""The user's own tables and texts as splits: CSV and JSON Lines, plain text. Split once: 70:10:20.

A recipe names its own file; `vestal train --data FILE` takes another one of the same columns.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vestal.errors import VestalError
from vestal.files.tables import Row, Table, cell_number, is_missing, read_table
from vestal.files.text import lines_of, read_text
from vestal.recipes.recipe import Splits
from vestal.training.datasets import SPLIT_SEED, split

FEWEST_ROWS = 12  # of a table: R2 needs two of a split, and a tenth of these validates
FEWEST = 10  # texts of a class: less cannot be split three ways
SHOWN = 60  # characters of a cell in a message
PIECES = 40  # of a plain text: what is held out is a 40th of it in one piece, several times


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
        VestalError: no such file or column, what is no finite number (row and column are named),
            or too few rows.
    """
    return split_rows(read_table(data or file), features, target)


def split_rows(table: Table, features: Sequence[str], target: str) -> Splits:
    """Split a table that is read, as `rows` does."""
    columns = (*features, target)
    table.require(columns)
    if len(table.rows) < FEWEST_ROWS:
        raise VestalError(
            f"{table.file} has {len(table.rows)} rows: at least {FEWEST_ROWS} can be split"
        )
    numbers = torch.tensor([[_number(table, row, name) for name in columns] for row in table.rows])
    beyond = (~torch.isfinite(numbers)).nonzero()
    if len(beyond):
        row, name = table.rows[int(beyond[0][0])], columns[int(beyond[0][1])]
        raise VestalError(f"{table.place(row, name)}: {row.values[name]!r} is beyond float32")
    everything = Rows(numbers[:, :-1], numbers[:, -1])
    return split(everything, place=table.file)


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
    table = read_table(source)
    table.require(("text", "label"))
    for row in table.rows:
        for name in ("text", "label"):
            value = row.values[name]
            if not isinstance(value, str | int) or not str(value).strip():
                raise VestalError(f"{table.place(row, name)}: the {name} is empty, or is no text")
    examples = [(str(row.values["text"]), str(row.values["label"]).strip()) for row in table.rows]
    count = Counter(label for _, label in examples)
    labels = sorted(count)
    few = [f"{label} has {count[label]}" for label in labels if count[label] < FEWEST]
    if few or len(labels) < 2:
        raise VestalError(
            f"{source} has {len(labels)} classes{': ' * bool(few)}{', '.join(few[:4])}; "
            f"at least 2 of {FEWEST} texts each can be learned and split"
        )
    classes = [labels.index(label) for _, label in examples]
    texts = Texts([(text, c) for (text, _), c in zip(examples, classes, strict=True)])
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
    lines = lines_of(read_text(source), ends=True)
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


def _number(table: Table, row: Row, column: str) -> float:
    value = row.values[column]
    number = cell_number(value)
    if number is not None:
        return float(number)
    if is_missing(value):
        raise VestalError(
            f"{table.place(row, column)}: the value is missing ({value!r}). Remove the row, or "
            "fill in a value such as the mean of the column"
        )
    shown = repr(value) if len(repr(value)) <= SHOWN else f"{repr(value)[:SHOWN]}..."
    raise VestalError(f"{table.place(row, column)}: {shown} is not a finite number")


def passages(text: str, size: int) -> Iterator[str]:
    """Whole lines, at most `size` bytes at once; a longer line is cut."""
    passage = ""
    for line in lines_of(text, ends=True):
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
