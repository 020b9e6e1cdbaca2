"""docs/concepts/architecture.md shows the layers that import-linter checks."""

from __future__ import annotations

import re
import tomllib
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (\d+) \| `([\w.]+)` \| \S.* \|$", re.MULTILINE)


@pytest.mark.parametrize(("contract", "heading"), [(0, "vestal"), (1, "vestal_handlers")])
def test_the_page_has_the_layers_of_the_contract(contract, heading):
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = configuration["tool"]["importlinter"]["contracts"][contract]["layers"]
    page = (ROOT / "docs" / "concepts" / "architecture.md").read_text("utf-8")
    section = re.split(r"^##+ ", page.split(f"### `{heading}`\n")[1], flags=re.MULTILINE)[0]
    rows = ROW.findall(section)
    drawn = [" | ".join(name for _, name in row) for _, row in groupby(rows, lambda row: row[0])]
    assert drawn == layers
    numbers = [int(number) for number, _ in rows]
    assert numbers == sorted(numbers, reverse=True)
    assert set(numbers) == set(range(1, len(layers) + 1))
