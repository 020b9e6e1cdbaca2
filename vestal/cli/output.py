"""Output of commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

UNWRAPPED = 10_000
"""Width of output that does not go to a terminal."""


def console(stream: TextIO, *, stderr: bool = False) -> Console:
    """A console that wraps lines in a terminal only; files and pipes get whole lines.

    Outside a terminal COLUMNS is ignored: GNU readline exports it to child processes, such as
    those of pytest.
    """
    width = None if stream.isatty() else UNWRAPPED
    return Console(stderr=stderr, highlight=False, width=width)


out = console(sys.stdout)
err = console(sys.stderr, stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def count_of(number: int, noun: str) -> str:
    """`1 input`, `2,000 inputs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_warning(text: str) -> None:
    """Print a warning on stderr."""
    err.print(Text(f"warning: {text}", style="yellow"), soft_wrap=True)


def shortened(text: str, most: int) -> str:
    """Return a text in one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def print_json(value: Any) -> None:
    """Print JSON for programs, without colours or wrapping."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
