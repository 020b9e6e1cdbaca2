"""A model store, and a serving.yaml that names its archives."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vestal.errors import UsageError
from vestal.fleet.desired import Desired
from vestal.fleet.resolving import resolve
from vestal.fleet.serving_file import load


def archive(
    store: Path,
    file: str,
    name: str,
    version: str,
    config: str | None = None,
    foreign: bool = False,
) -> Path:
    store.mkdir(exist_ok=True)
    model = {"modelName": name, "modelVersion": version, "handler": "handler.py"}
    with zipfile.ZipFile(store / file, "w") as members:
        if config is not None:
            model["configFile"] = "model-config.yaml"
            members.writestr("model-config.yaml", config)
        members.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        if not foreign:
            members.writestr("vestal_handlers/digests.py", "")
    return store / file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "model_store"
    archive(store, "mnist-1.0.mar", "mnist", "1.0")
    archive(store, "mnist-2.0.mar", "mnist", "2.0", "minWorkers: 2\nmaxWorkers: 3\n")
    archive(store, "from-a-colleague.mar", "lenet5", "7")
    return store


@pytest.fixture
def resolved(store: Path, tmp_path: Path) -> Callable[[str], Desired]:
    def read(text: str) -> Desired:
        file = tmp_path / "serving.yaml"
        file.write_text(text)
        return resolve(load(file), store, tmp_path)

    return read


@pytest.fixture
def refuse(resolved: Callable[[str], Desired], tmp_path: Path) -> Callable[[str], list[str]]:
    def check(text: str) -> list[str]:
        with pytest.raises(UsageError) as error:
            resolved(text)
        return str(error.value).replace(f"{tmp_path}/", "").splitlines()

    return check
