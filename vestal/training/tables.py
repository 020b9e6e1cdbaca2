"""Load tables (CSV, JSON Lines) and plain text as splits: 70 % train, 10 % validation, 20 % test.

A recipe names its file; `vestal train --data FILE` replaces it by one with the same columns.
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

FEWEST_ROWS = 12  # in a table: R2 requires two rows, and a tenth of the rows is for validation
FEWEST = 10  # texts in a class: fewer cannot be split in three
SHOWN = 60  # characters of a cell in a message
PIECES = 40  # a plain text is split into this many pieces; whole pieces are held out


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
        picked = torch.from_numpy(indices)
        return Rows(self.rows[picked], self.targets[picked])


@dataclass(frozen=True)
class Texts:
    """Texts with the index of their class; None for language models."""

    texts: Sequence[tuple[str, int | None]]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, int | None]:
        return self.texts[index]

    def pick(self, indices: Iterable[int]) -> Texts:
        return Texts([self.texts[int(index)] for index in indices])


def rows(data: Path | None = None, *, file: Path, features: Sequence[str], target: str) -> Splits:
    """Load a table of numbers; each row is an example.

    Args:
        data: table with the same columns, used instead of `file`.

    Raises:
        VestalError: a missing file or column, a value that is not a finite number (the message
            names row and column), or too few rows.
    """
    return split_rows(read_table(data or file), features, target)


def split_rows(table: Table, features: Sequence[str], target: str) -> Splits:
    """Split the rows of a table; see `rows`."""
    columns = (*features, target)
    table.require(columns)
    if len(table.rows) < FEWEST_ROWS:
        raise VestalError(
            f"{table.file} has {len(table.rows)} rows; at least {FEWEST_ROWS} are required"
        )
    numbers = torch.tensor([[_number(table, row, name) for name in columns] for row in table.rows])
    infinite = (~torch.isfinite(numbers)).nonzero()
    if len(infinite):
        row, name = table.rows[int(infinite[0][0])], columns[int(infinite[0][1])]
        raise VestalError(
            f"{table.place(row, name)}: {row.values[name]!r} is too large for float32"
        )
    everything = Rows(numbers[:, :-1], numbers[:, -1])
    return split(everything, place=table.file)


def moments(values: Tensor) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each column of [N, columns]."""
    return values.mean(0).tolist(), values.std(0).tolist()


def labelled_texts(data: Path | None = None, *, file: Path) -> Splits:
    """Load a table with the columns `text` and `label`; the classes are the sorted labels.

    Raises:
        VestalError: a missing file or column, an empty text or label, a single class, or too few
            texts in a class.
    """
    source = data or file
    table = read_table(source)
    table.require(("text", "label"))
    for row in table.rows:
        for name in ("text", "label"):
            value = row.values[name]
            if not isinstance(value, str | int) or not str(value).strip():
                raise VestalError(f"{table.place(row, name)}: the {name} is empty or not a text")
    examples = [(str(row.values["text"]), str(row.values["label"]).strip()) for row in table.rows]
    count = Counter(label for _, label in examples)
    labels = sorted(count)
    few = [f"{label} has {count[label]}" for label in labels if count[label] < FEWEST]
    if few or len(labels) < 2:
        raise VestalError(
            f"{source} has {len(labels)} classes{': ' * bool(few)}{', '.join(few[:4])}; "
            f"at least 2 classes with {FEWEST} texts each are required"
        )
    classes = [labels.index(label) for _, label in examples]
    texts = Texts([(text, c) for (text, _), c in zip(examples, classes, strict=True)])
    return split(texts, classes, labels, source)


def plain_text(data: Path | None = None, *, file: Path, context: int) -> Splits:
    """Load a UTF-8 text for a language model; whole pieces of it are held out.

    Args:
        context: largest number of tokens that the model accepts. A held-out passage has at most
            as many bytes, and a token has at least one byte.

    Raises:
        VestalError: a missing file, not UTF-8, or too few lines. `language.tokenize` checks the
            number of tokens.
    """
    source = data or file
    lines = lines_of(read_text(source), ends=True)
    if len(lines) < PIECES:
        raise VestalError(f"{source} has {len(lines)} lines; at least {PIECES} are required")
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
    """Divide a text into passages of whole lines, at most `size` bytes each; cut longer lines."""
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
