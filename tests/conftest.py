"""What all tests share: a marker by folder, and a trained, packed model made once a session."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

FOLDERS = ("unit", "handlers", "e2e", "chaos")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's folder is its marker."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in FOLDERS:
            item.add_marker(folder)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


@pytest.fixture(scope="session")
def trained_project(tmp_path_factory: pytest.TempPathFactory):
    """A project with two short trainings of mnist on digits, packed as 1.0 and 2.0."""
    from vestal.archive.pack import pack
    from vestal.project import Project
    from vestal.training.compressing import Settings
    from vestal.training.train import train

    project = Project(tmp_path_factory.mktemp("project"))
    for version, seed in (("1.0", 0), ("2.0", 1)):
        run = train(project, "mnist", Settings(dataset="digits", epochs=2, seed=seed, device="cpu"))
        pack(project, "mnist", version=version, weights=run.folder)
    return project
