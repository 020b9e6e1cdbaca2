"""Choose the columns of a table for a new regressor: numbers, and encoded text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from shlex import quote

from vestal.errors import UsageError, VestalError
from vestal.files.tables import Row, Table, cell_number, is_missing

MOST_VALUES = 50
"""Different values of a column that can be encoded."""


@dataclass(frozen=True)
class Choice:
    """Options of the user.

    Attributes:
        target: column to predict; None: the last one with numbers.
        ignore: columns to leave out.
        encode: columns of text to encode.
    """

    target: str | None = None
    ignore: Sequence[str] = ()
    encode: Sequence[str] = ()

    @property
    def named(self) -> list[str]:
        return [*([self.target] if self.target is not None else []), *self.ignore, *self.encode]


@dataclass(frozen=True)
class RegressionTable:
    """A table with only features and target; `encoded`: the features made from text columns."""

    table: Table
    features: Sequence[str]
    target: str
    encoded: Sequence[str] = ()


def choose(table: Table, choice: Choice) -> RegressionTable:
    """Select features and target, and encode columns of text.

    An encoded column becomes one column per value, COLUMN_VALUE (as in pandas' get_dummies), with
    1 in the rows that have the value and 0 in the others.

    Raises:
        UsageError: an unknown column, or one that is named twice.
        VestalError: too few columns, columns of text, or missing values; the message names the
            options that help.
    """
    columns = [name for name in table.columns if name]
    for name in choice.named:
        if name not in columns:
            raise UsageError(f"{table.file} has no column {name!r}: it has {', '.join(columns)}")
        if choice.named.count(name) > 1:
            raise UsageError(
                f"column {name} is named twice: --target, --ignore and --encode exclude each other"
            )
    left = [name for name in columns if name not in choice.ignore]
    numbers = [name for name in left if name not in choice.encode]
    target = choice.target or (numbers[-1] if numbers else "")
    if len(left) < 2 or not numbers:
        raise VestalError(
            f"{table.file} has {len(left)} columns to learn from: a target of numbers and at least "
            "one feature are needed"
        )
    table.require(left)
    _check_values(table, left, target, choice.encode)
    codes = {name: _codes(table, name) for name in choice.encode}
    encoded = [column for pairs in codes.values() for column, _ in pairs]
    features = [name for name in numbers if name != target]
    clash = sorted(set(encoded) & set(columns)) or [c for c in encoded if encoded.count(c) > 1]
    if clash:
        raise VestalError(
            f"{table.file}: --encode would make a second column {clash[0]}: rename it"
        )
    rows = [_encoded(row, [*features, target], codes) for row in table.rows]
    chosen = Table(table.file, [*features, *encoded, target], rows)
    return RegressionTable(chosen, [*features, *encoded], target, encoded)


def _codes(table: Table, name: str) -> list[tuple[str, str]]:
    """Return the new columns for an encoded column, each with its value."""
    return [(f"{name}_{value}", value) for value in _values(table, name)]


def _encoded(row: Row, kept: Sequence[str], codes: dict[str, list[tuple[str, str]]]) -> Row:
    values = {name: row.values[name] for name in kept}
    for name, pairs in codes.items():
        values |= {column: int(str(row.values[name]) == value) for column, value in pairs}
    return replace(row, values=values)


def _values(table: Table, name: str) -> list[str]:
    return sorted({str(row.values[name]) for row in table.rows})


def _check_values(table: Table, columns: Sequence[str], target: str, encode: Sequence[str]) -> None:
    """Raise VestalError for text that is not encoded, and for missing values."""
    texts = [name for name in columns if name not in encode and _is_text(table, name)]
    problems = []
    if target in texts:
        problems.append(
            f"the column to predict, {target}, holds {_shown(table, target)}, and a regressor "
            "predicts numbers: name another column with --target"
        )
    problems += [_what_to_do(table, name) for name in texts if name != target]
    problems += [
        f"column {name} has no value in {len(rows):,} of {len(table.rows):,} rows (first in row "
        f"{rows[0].number}, line {rows[0].line}): remove these rows, fill in a value such as the "
        f"mean of the column, or leave the column out with --ignore {quote(name)}"
        for name in columns
        if (rows := [row for row in table.rows if is_missing(row.values[name])])
    ]
    many = [name for name in encode if len(_values(table, name)) > MOST_VALUES]
    problems += [
        f"column {name} has {len(_values(table, name)):,} different values, and --encode takes at "
        f"most {MOST_VALUES}: leave it out with --ignore {quote(name)}"
        for name in many
    ]
    if problems:
        raise VestalError(f"{table.file}: {'; '.join(problems)}")


def _is_text(table: Table, name: str) -> bool:
    """Whether most values are text; single ones are typing errors in a column of numbers."""
    values = [row.values[name] for row in table.rows if not is_missing(row.values[name])]
    texts = sum(cell_number(value) is None for value in values)
    return texts * 2 > len(values)


def _shown(table: Table, name: str) -> str:
    texts: Iterator[str] = (str(row.values[name]) for row in table.rows)
    some = list(dict.fromkeys(text[:20] for text in texts))
    return f"text ({', '.join(map(repr, some[:3]))}{', ...' if len(some) > 3 else ''})"


def _what_to_do(table: Table, name: str) -> str:
    advice = f"leave it out with --ignore {quote(name)}"
    count = len(_values(table, name))
    if count <= MOST_VALUES:
        advice += (
            f", or turn its {count} values into columns of 0 and 1 with --encode {quote(name)}"
        )
    return f"column {name} holds {_shown(table, name)}: {advice}"
