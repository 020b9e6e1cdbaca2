"""A project with archives and a fake keeper that serves mnist 1.0, for tests of commands."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
from keeper_fake import FakeKeeper, keeper_api

from vestal.fleet.resolving import default_desired
from vestal.project import Project
from vestal.server.spec import read_spec


def pack(store: Path, name: str, version: str) -> Path:
    """An archive with only a manifest: nothing is served here."""
    store.mkdir(exist_ok=True)
    archive = store / f"{name}-{version}.mar"
    model = {"modelName": name, "modelVersion": version, "handler": "handler.py"}
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
    return archive


def serving_yaml(root: Path, version: str, more: str = "") -> Path:
    file = root / "serving.yaml"
    file.write_text(f'models:\n  mnist:\n    version: "{version}"\n{more}')
    return file


def versions(keeper: FakeKeeper) -> dict[str, tuple[str, list[str]]]:
    models = keeper.desired().models
    return {name: (each.default, sorted(each.versions)) for name, each in models.items()}


@pytest.fixture
def project(tmp_path):
    """A store with mnist 1.0 and 2.0 and other 1.0."""
    project = Project(tmp_path)
    for name, version in (("mnist", "1.0"), ("mnist", "2.0"), ("other", "1.0")):
        pack(project.model_store, name, version)
    return project


@pytest.fixture
def keeper(project):
    """A keeper that serves mnist 1.0 from the store."""
    first = default_desired([read_spec(project.model_store / "mnist-1.0.mar")])
    keeper = FakeKeeper(first)
    with keeper_api(project, keeper, os.getpid()):
        yield keeper
