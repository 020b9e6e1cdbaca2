"""Inputs of a batch run: files of a folder or glob, rows of a table, lines of a text file."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vestal.batch.output import RESERVED
from vestal.client.encoding import BYTES, CONTENT_TYPES
from vestal.errors import UsageError
from vestal.files.folders import files_in, is_hidden
from vestal.files.tables import is_table, read_table

LINES = ".txt"
BATCHES_AHEAD = 2
"""Batches that each thread reads ahead."""


@dataclass(frozen=True)
class Item:
    """One input: a whole file, a row of a table or a line of a text file.

    Attributes:
        row: number of the row (without the header) or line, from 1; None for a whole file.
        columns: values of a row, by column.
        text: content of a line.
    """

    file: str
    row: int | None = None
    columns: Mapping[str, Any] | None = None
    text: bytes | None = None

    @property
    def folder(self) -> str:
        """Name of the file's folder, which may be its label."""
        return Path(self.file).absolute().parent.name

    @property
    def output_columns(self) -> dict[str, str | int | None]:
        """File, row and content of a row or line, as printable text."""
        name = os.fsencode(self.file).decode("utf-8", "backslashreplace")
        place: dict[str, str | int | None] = {"file": name, "row": self.row}
        if self.text is not None:
            place["text"] = self.text.decode("utf-8", "backslashreplace")
        return {**place, **{name: _as_text(value) for name, value in (self.columns or {}).items()}}


@dataclass(frozen=True)
class InputContent:
    """Content of the input at `index`, or (type, message) of the error that reading it raised."""

    index: int
    body: bytes = b""
    content_type: str = BYTES
    error: tuple[str, str] | None = None


class Inputs:
    """All inputs of a run; an input is read when it is indexed.

    Attributes:
        fingerprint: changes when an input is added, removed or modified.
        columns: of a table.
    """

    def __init__(self, items: Sequence[Item], fingerprint: str, columns: Sequence[str] = ()):
        self.items, self.fingerprint, self.columns = items, fingerprint, columns

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> InputContent:
        item = self.items[index]
        if item.text is not None:
            return InputContent(index, item.text, CONTENT_TYPES[LINES])
        if item.columns is not None:
            return InputContent(index)
        file = Path(item.file)
        try:
            body = file.read_bytes()
        except OSError as error:
            return InputContent(index, error=(type(error).__name__, error.strerror or str(error)))
        return InputContent(index, body, CONTENT_TYPES.get(file.suffix.lower(), BYTES))

    @property
    def are_files(self) -> bool:
        return bool(self.items) and self.items[0].row is None


def find_inputs(arguments: Sequence[str], exclude: Collection[Path] = ()) -> Inputs:
    """Find the inputs: folders (at any depth), globs and files; or one table or text file.

    Args:
        exclude: files that are not inputs.

    Raises:
        UsageError: no files, or a table or text file that cannot be read.
    """
    if len(arguments) == 1 and Path(arguments[0]).is_file():
        file = Path(arguments[0])
        if is_table(file):
            inputs = _rows(file)
            clash = sorted(set(inputs.columns) & set(RESERVED))
            if clash:
                raise UsageError(
                    f"{file} has columns with the names of output columns: {', '.join(clash)}. "
                    "Rename them"
                )
            return inputs
        if file.suffix.lower() == LINES:
            return _lines(file)
    excluded = {path.absolute() for path in exclude}
    found = (file for argument in arguments for file in _files(argument))
    files = list(dict.fromkeys(file for file in found if file.absolute() not in excluded))
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except OSError:  # a broken link: reading it gives an error row
            state = "missing"
        else:
            state = f"{status.st_size} {status.st_mtime_ns}"
        digest.update(os.fsencode(file) + f"\0{state}\n".encode())
    return Inputs([Item(str(file)) for file in files], digest.hexdigest())


@contextmanager
def prefetch_batches(
    inputs: Inputs, indices: Sequence[int], batch_size: int, threads: int
) -> Iterator[Iterator[list[InputContent]]]:
    """Read the inputs `indices` in batches, in order, ahead of their use.

    Threads, not processes: reading releases the GIL, and a killed run leaves no process behind.

    Args:
        threads: number of reading threads; 0: a batch is read when it is needed.
    """
    batches = iter(
        [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    )

    def read(batch: Sequence[int]) -> list[InputContent]:
        return [inputs[index] for index in batch]

    if threads == 0 or not inputs.are_files:
        yield map(read, batches)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    pending: deque[Future[list[InputContent]]] = deque()

    def submit(count: int) -> None:
        pending.extend(pool.submit(read, batch) for batch in islice(batches, count))

    def results() -> Iterator[list[InputContent]]:
        while pending:
            batch = pending.popleft().result()
            submit(1)
            yield batch

    submit(BATCHES_AHEAD * threads)
    try:
        yield results()
    finally:
        pool.shutdown(cancel_futures=True)


def _files(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        files = files_in(path)
    elif path.is_file():
        return [path]
    else:
        files = [Path(name) for name in glob.glob(argument, recursive=True)]  # noqa: PTH207  pathlib has no absolute globs
        hidden = {part for file in files for part in file.parts if is_hidden(part)}
        hidden -= set(path.parts)
        files = [file for file in files if not file.is_dir() and not hidden & set(file.parts)]
    if not files:
        raise UsageError(f"no files in {argument}: pass a folder, a glob ('photos/*.jpg') or files")
    return sorted(files)


def _rows(file: Path) -> Inputs:
    table = read_table(file)
    items = [Item(str(file), row.number, row.values) for row in table.rows]
    return _non_empty(items, file, _content(file), table.columns)


def _lines(file: Path) -> Inputs:
    content = _content(file)
    lines = enumerate(content.split(b"\n"), 1)
    # Not decoded: the handler refuses a line that is not UTF-8, and the others are predicted.
    items = [
        Item(str(file), number, text=line.rstrip(b"\r")) for number, line in lines if line.strip()
    ]
    return _non_empty(items, file, content)


def _non_empty(
    items: list[Item], file: Path, content: bytes, columns: Sequence[str] = ()
) -> Inputs:
    if not items:
        raise UsageError(f"{file} has no rows")
    digest = hashlib.sha256(os.fsencode(file) + b"\0" + content)
    return Inputs(items, digest.hexdigest(), columns)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes().removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
