"""What `vestal predict` is given: files, folders, rows of a CSV, texts, rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestal.batch.inputs import files_in, number_in, read_table
from vestal.client.encoding import IMAGES
from vestal.errors import UsageError

SHORT = 60  # characters of a text in a table


@dataclass(frozen=True)
class Given:
    """One input.

    `value`: what the client sends. `shown`: for a table; `fact`: for JSON. `file`: where it is a
    whole file.
    """

    value: Any
    shown: str
    fact: dict[str, Any] = field(default_factory=dict)
    file: Path | None = None

    @property
    def prompt(self) -> str:
        """The text that was sent, where it was one; else how it is shown."""
        value = self.value
        try:
            if self.file is not None and self.file.suffix in (".txt", ".json"):
                value = self.file.read_bytes()
                value = json.loads(value) if self.file.suffix == ".json" else value.decode()
            value = value.get("prompt") if isinstance(value, dict) else value
            value = value.decode() if isinstance(value, bytes) else value
        except (OSError, ValueError):
            return self.shown
        return value if isinstance(value, str) else self.shown


def gather(files: Sequence[Path], texts: Sequence[str], rows: Sequence[str]) -> list[Given]:
    """All inputs in the order: files, texts, rows.

    Raises:
        UsageError: none at all, a file that is not there, or a row that cannot be read.
    """
    given = [one for file in expand(files) for one in _of_file(file)]
    given += [_of_text(text) for text in texts]
    given += [_of_row(row) for row in rows]
    if not given:
        raise UsageError(
            "nothing to predict: give files or folders, --text TEXT or --row NAME=1,..."
        )
    return given


def expand(inputs: Sequence[Path]) -> list[Path]:
    """Files as they are; of a folder every file below it but hidden ones, sorted.

    Raises:
        UsageError: a path that is not there, or a folder without files.
    """
    files: list[Path] = []
    for given in inputs:
        if given.is_dir():
            found = files_in(given)
            if not found:
                raise UsageError(f"no files in {given}")
            files += found
        elif given.is_file():
            files.append(given)
        else:
            raise UsageError(f"no file or folder {given}")
    return files


def _of_file(file: Path) -> list[Given]:
    if file.suffix.lower() != ".csv":
        return [Given(file, str(file), {"file": str(file)}, file)]
    given = []
    for item in read_table(file).items:
        columns = dict(item.columns or {})
        where = {"file": str(file), "row": item.row}
        if "text" in columns:
            text = columns["text"]
            given.append(Given(_sent(text), _short(text), {**where, "text": text}))
        else:
            row = {name: _number_or_text(value) for name, value in columns.items()}
            given.append(Given(row, _short_row(row), {**where, "columns": row}))
    return given


def _of_text(text: str) -> Given:
    return Given(_sent(text), _short(text), {"text": text})


def _of_row(said: str) -> Given:
    """`bmi=25,bp=90,s5=4.5`, or the numbers alone in the model's order."""
    parts = [part.strip() for part in said.split(",")]
    names = [part.partition("=")[0].strip() for part in parts if "=" in part]
    if len(names) not in (0, len(parts)) or len(set(names)) < len(names) or not all(parts):
        raise UsageError(f"--row {said}: expected NAME=NUMBER,NAME=NUMBER or NUMBER,NUMBER")
    values = [_number_or_text(part.partition("=")[2] if names else part) for part in parts]
    row: Any = dict(zip(names, values, strict=True)) if names else values
    return Given(row, said, {"columns": row})


def _number_or_text(text: str) -> float | str:
    number = number_in(text)
    return text if number is None else number


def _sent(text: str) -> str | bytes:
    # To the client a str that ends as an image's name does is that file.
    return text.encode() if text.lower().endswith(tuple(IMAGES)) else text


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHORT else f"{line[: SHORT - 1]}…"


def _short_row(row: dict[str, Any]) -> str:
    return _short(", ".join(f"{name}={value}" for name, value in row.items()))
