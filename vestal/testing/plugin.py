"""Pytest plugin with the fixture `archive`.

# conftest.py in the root folder of the tests
pytest_plugins = ["vestal.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vestal.testing.archives import ArchiveLoader


@pytest.fixture(scope="session")
def archive(pytestconfig: pytest.Config) -> Iterator[ArchiveLoader]:
    """Load an archive or model without a server: `archive("mnist-1.0.mar").predict([...])`.

    Each one is loaded once per session. Names and paths start at pytest's root folder.
    """
    from vestal.project import Project
    from vestal.testing.archives import load_archives

    with load_archives(Project(pytestconfig.rootpath)) as loader:
        yield loader
