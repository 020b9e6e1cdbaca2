"""Inputs: a folder, a glob, files, a table's rows, a text file's lines."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.batch.columns import RESULTS
from vestal.client.encoding import BYTES, CONTENT_TYPES
from vestal.errors import UsageError
from vestal.files.folders import files_in, is_hidden
from vestal.files.tables import is_table, read_table

LINES = ".txt"


@dataclass(frozen=True)
class Item:
    """One input: a whole file, or one line of a file.

    `row`: from 1, a CSV's header not counted; a text file's line; None of a whole file.
    `columns`: of a table's row. `text`: a line.
    """

    file: str
    row: int | None = None
    columns: Mapping[str, Any] | None = None
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
        return {**place, **{name: _shown(value) for name, value in (self.columns or {}).items()}}


@dataclass(frozen=True)
class Read:
    """An item's content, or why there is none."""

    index: int
    body: bytes = b""
    content_type: str = BYTES
    error: tuple[str, str] | None = None


class Items:
    """All inputs of a run, as a map-style data set; read when they are asked for.

    `columns`: of a table; `fingerprint`: changes when an input comes, goes or changes.
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
    """What the user named: folders (all files below), globs, files; or one table or text file.

    Args:
        leave_out: files that are no inputs, wherever they are.

    Raises:
        UsageError: nothing there, or a table or a text file that cannot be read.
    """
    if len(given) == 1 and Path(given[0]).is_file():
        file = Path(given[0])
        if is_table(file):
            items = _rows(file)
            clash = sorted(set(items.columns) & set(RESULTS))
            if clash:
                raise UsageError(
                    f"{given[0]} has columns that the output needs for itself: "
                    f"{', '.join(clash)}; rename them"
                )
            return items
        if file.suffix.lower() == LINES:
            return _lines(file)
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
        hidden = {part for file in seen for part in file.parts if is_hidden(part)}
        hidden -= set(path.parts)
        seen = [file for file in seen if not file.is_dir() and not hidden & set(file.parts)]
    if not seen:
        raise UsageError(f"no files in {given}: name a folder, a glob ('photos/*.jpg') or files")
    return sorted(seen)


def _rows(file: Path) -> Items:
    table = read_table(file)
    items = [Item(str(file), row.number, row.values) for row in table.rows]
    return _checked(items, file, _content(file), table.columns)


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


def _shown(value: Any) -> str:
    """A cell as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
