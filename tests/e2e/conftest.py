"""The server that several test files share (see PLAIN_SERVER in tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator

import plain_archives
import pytest
from serving import archive

from vestal.project import Project
from vestal.server.server import Server


@pytest.fixture(scope="session")
def plain_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A server with `echo` 1.0, which tests leave as it is; its store has more archives."""
    project = Project(tmp_path_factory.mktemp("plain"))
    store = project.model_store
    for version in ("1.0", "2.0"):
        archive(store, "echo", plain_archives.ECHO, version)
    archive(store, "described", plain_archives.DESCRIBED)
    archive(store, "broken", plain_archives.BROKEN)
    archive(store, "small", plain_archives.ECHO, config=plain_archives.SMALL)
    with Server(project, ["echo-1.0.mar"], port=0):
        yield project
