"""How commands speak: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def count_of(number: int, noun: str) -> str:
    """`1 input`, `2,000 inputs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_json(value: Any) -> None:
    """Plain JSON, whatever the terminal: for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
