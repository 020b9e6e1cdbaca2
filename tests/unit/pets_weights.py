"""Weights of a small image classifier, saved and imported in many ways."""

from __future__ import annotations

import os

import pytest
import torch

from vestal.model_folders import find_model
from vestal.project import Project
from vestal.scaffold import create
from vestal.weights.import_weights import import_weights
from vestal_handlers.model_files import load_module


def pets_project(folder):
    """A project with the image classifier `pets`."""
    project = Project(folder)
    create(project, "pets", "image_classifier")
    return project


def pets_module(project):
    """A module of `pets` with random weights, the same in every call."""
    torch.manual_seed(0)
    return load_module(find_model(project, "pets"), "model").build(len(LABELS)).eval()


LABELS = ("cat", "dog", "owl")


def import_pets(project, file, tmp_path, labels=LABELS):
    """The state_dict of the run that the file becomes."""
    run = import_weights(project, "pets", str(file), tmp_path / "run", labels)
    return torch.load(run.folder / run.artifacts[0], weights_only=True)


def same_tensors(found, state):
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


def save_weights(tmp_path, value, name="weights.pth"):
    torch.save(value, tmp_path / name)
    return tmp_path / name


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


class Evil:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the image classifier `pets`, for all tests of a module."""
    return pets_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def state(project):
    """The random weights of `pets`."""
    return pets_module(project).state_dict()
