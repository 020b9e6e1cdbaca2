"""Inputs: a folder, a glob, files, a CSV's rows, a text file's lines."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vestal.batch.columns import RESULTS
from vestal.client.encoding import BYTES, CONTENT_TYPES
from vestal.errors import UsageError

TABLE, LINES = ".csv", ".txt"


@dataclass(frozen=True)
class Item:
    """One input: a whole file, or one line of a file.

    `row`: from 1, a CSV's header not counted; a text file's line; None of a whole file.
    `columns`: of a CSV's row. `text`: a line.
    """

    file: str
    row: int | None = None
    columns: Mapping[str, str] | None = None
    text: bytes | None = None

    @property
    def folder(self) -> str:
        """The name of its folder, which may be its label."""
        return Path(self.file).absolute().parent.name

    @property
    def shown(self) -> dict[str, str | int | None]:
        """Where it is and, of one line, what it is, by column; never bytes that are no text."""
        name = os.fsencode(self.file).decode("utf-8", "backslashreplace")
        place: dict[str, str | int | None] = {"file": name, "row": self.row}
        if self.text is not None:
            place["text"] = self.text.decode("utf-8", "backslashreplace")
        return {**place, **(self.columns or {})}


@dataclass(frozen=True)
class Read:
    """An item's content, or why there is none."""

    index: int
    body: bytes = b""
    content_type: str = BYTES
    error: tuple[str, str] | None = None


class Items:
    """All inputs of a run, as a map-style data set; read when they are asked for.

    `columns`: of a CSV; `fingerprint`: changes when an input comes, goes or changes.
    """

    def __init__(self, items: Sequence[Item], fingerprint: str, columns: Sequence[str] = ()):
        self.items, self.fingerprint, self.columns = items, fingerprint, columns

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Read:
        item = self.items[index]
        if item.text is not None:
            return Read(index, item.text, CONTENT_TYPES[LINES])
        if item.columns is not None:
            return Read(index)
        file = Path(item.file)
        try:
            body = file.read_bytes()
        except OSError as error:
            return Read(index, error=(type(error).__name__, error.strerror or str(error)))
        return Read(index, body, CONTENT_TYPES.get(file.suffix.lower(), BYTES))

    @property
    def are_files(self) -> bool:
        return bool(self.items) and self.items[0].row is None


def find_inputs(given: Sequence[str], leave_out: Collection[Path] = ()) -> Items:
    """What the user named: folders (all files below), globs, files; or one CSV or text file alone.

    Args:
        leave_out: files that are no inputs, wherever they are.

    Raises:
        UsageError: nothing there, or a CSV or a text file that cannot be read.
    """
    if len(given) == 1 and Path(given[0]).is_file():
        suffix = Path(given[0]).suffix.lower()
        if suffix == TABLE:
            items = read_table(Path(given[0]))
            clash = sorted(set(items.columns) & set(RESULTS))
            if clash:
                raise UsageError(
                    f"{given[0]} has columns that the output needs for itself: "
                    f"{', '.join(clash)}; rename them"
                )
            return items
        if suffix == LINES:
            return _lines(Path(given[0]))
    others = {path.absolute() for path in leave_out}
    found = (file for one in given for file in _files(one))
    files = list(dict.fromkeys(file for file in found if file.absolute() not in others))
    digest = hashlib.sha256()
    for file in files:
        try:
            facts = file.stat()
        except OSError:  # a link to nothing: its row will say so
            state = "missing"
        else:
            state = f"{facts.st_size} {facts.st_mtime_ns}"
        digest.update(os.fsencode(file) + f"\0{state}\n".encode())
    return Items([Item(str(file)) for file in files], digest.hexdigest())


def _files(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        seen = files_in(path)
    elif path.is_file():
        return [path]
    else:
        seen = [Path(name) for name in glob.glob(given, recursive=True)]  # noqa: PTH207  `**` and absolute ones alike
        seen = [file for file in seen if not file.is_dir()]
    if not seen:
        raise UsageError(f"no files in {given}: name a folder, a glob ('photos/*.jpg') or files")
    return sorted(seen)


def files_in(folder: Path) -> list[Path]:
    """All files below it, sorted, without hidden ones and those in hidden folders.

    A link to nothing is one of them: who reads it will say so.
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if not file.is_dir()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def read_table(file: Path) -> Items:
    """A CSV's rows, as text; the first line names the columns.

    Raises:
        UsageError: it cannot be read, or a row has another number of fields.
    """
    content = _content(file)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no UTF-8 (byte {error.start}): save it as UTF-8") from None
    # Not splitlines(), which ends a line at what is a character of a text (U+2028, \x0b) too.
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    columns = list(rows.fieldnames or [])
    if not columns or len(set(columns)) < len(columns):
        raise UsageError(f"{file} needs a first line of column names, each another one")
    items = []
    try:
        for number, row in enumerate(rows, 1):
            if None in row or None in row.values():
                raise csv.Error(f"row {number} has not the {len(columns)} fields of the first line")
            items.append(Item(str(file), number, row))
    except csv.Error as error:
        raise UsageError(
            f"{file} is no CSV that can be read (line {rows.line_num}): {error}"
        ) from None
    return _checked(items, file, content, columns)


def _lines(file: Path) -> Items:
    content = _content(file)
    lines = enumerate(content.split(b"\n"), 1)
    # Bytes as they are: of a line that is no text the handler says so, and the others are read.
    items = [
        Item(str(file), number, text=line.rstrip(b"\r")) for number, line in lines if line.strip()
    ]
    return _checked(items, file, content)


def _checked(items: list[Item], file: Path, content: bytes, columns: Sequence[str] = ()) -> Items:
    if not items:
        raise UsageError(f"{file} has no rows")
    digest = hashlib.sha256(os.fsencode(file) + b"\0" + content)
    return Items(items, digest.hexdigest(), columns)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from None


def number_in(text: str) -> int | float | None:
    """The finite number that a cell holds; None where it holds something else."""
    try:
        found = float(text)
    except ValueError:
        return None
    if not math.isfinite(found):
        return None
    return int(text) if text.strip().lstrip("+-").isdecimal() else found
