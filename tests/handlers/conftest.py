"""Fixtures of several test files."""

from __future__ import annotations

import os
import shutil

import pytest
from doubling import write_doubler
from filelock import FileLock
from folders import handler_of
from pretrained_models import Models
from saved_models import ARCHITECTURES, SavedModel
from tiny_gpt2 import write_generator

from vestal.inprocess import LoadedArchive


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory):
    """Exporting takes seconds, so one process of the session (-n) does it for all."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "saved_models.lock"):
        return {kind: SavedModel(shared / f"saved-{kind}", kind) for kind in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def saved(request, saved_models):
    return saved_models[request.param]


@pytest.fixture
def conv(saved_models):
    return saved_models["conv"]


@pytest.fixture(scope="session")
def doubler_folder(tmp_path_factory):
    return write_doubler(tmp_path_factory.mktemp("doubler"))


@pytest.fixture(scope="module")
def doubler(doubler_folder):
    with LoadedArchive(doubler_folder) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory):
    return write_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def generator(generator_folder):
    with LoadedArchive(generator_folder) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def language(generator):
    return handler_of(generator).engine


@pytest.fixture
def changed(generator_folder, tmp_path):
    """Copy the archive of the text generator, with another model-config.yaml."""

    def change(config):
        folder = shutil.copytree(generator_folder, tmp_path / "changed")
        (folder / "model-config.yaml").write_text(config)
        return folder

    return change


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models of transformers with random weights: a function of a name and options."""
    models = Models(tmp_path_factory.mktemp("pretrained"))
    yield models
    models.close()
