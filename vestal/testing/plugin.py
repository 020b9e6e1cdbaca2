"""The pytest plugin: the fixture `archive`. It imports nothing until a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vestal.testing.archives import Archives


@pytest.fixture(scope="session")
def archive(pytestconfig: pytest.Config) -> Iterator[Archives]:
    """`archive("model_store/mnist-1.0.mar").predict([Path("seven.png")])`: answers, no server.

    Each archive or model loads once a session; names and paths are those of pytest's root folder.
    """
    from vestal.project import Project
    from vestal.testing.archives import archives

    with archives(Project(pytestconfig.rootpath)) as found:
        yield found
