"""The guides that lead from an empty folder to a served model."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import run_page
from serving import serving

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"


def test_getting_started_ends_with_the_better_version_served(tmp_path):
    with serving(tmp_path / "project") as server:
        printed = run_page(DOCS / "getting-started.md", server)
    assert "Packed" in printed
    assert printed.endswith("[('mnist', '2.0')]\n")


def test_write_a_handler_serves_a_detector(tmp_path):
    with serving(tmp_path / "project") as server:
        printed = run_page(DOCS / "guides" / "write-a-handler.md", server)
    assert "1 passed" in printed
    assert '"objects"' in printed
