"""Every archive of the zoo on plain TorchServe, with only the packages that it declares."""

from __future__ import annotations

import json
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest
import requests
from packaging.requirements import Requirement
from serving import plain_torchserve

from vestal.mar.sample import find_difference, read_sample

pytestmark = pytest.mark.slow

SEVEN = ["fashion_mlp", "gpt2", "lenet5", "mnist", "regression", "resnet18", "simplenet"]
# Dependencies of TorchServe's wheel, and yaml, which its worker imports.
ALWAYS = ("torchserve", "pyyaml", "torch", "numpy")


def closure(names) -> dict[str, Distribution]:
    """Return the distributions with these names, and all their dependencies."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        for line in found[name].requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return found


def environment(folder, names):
    """Make a folder for PYTHONPATH with only these distributions and their dependencies."""
    folder.mkdir(parents=True)
    for dist in closure(names).values():
        for file in dist.files or ():
            top = file.parts[0]
            place = folder / top
            if top not in ("..", "__pycache__", "bin") and not place.exists():
                source = dist.locate_file(top)
                if source.exists():
                    place.symlink_to(source)


def bill_of(archive):
    with zipfile.ZipFile(archive) as content:
        return json.loads(content.read("bill-of-materials.json"))


@pytest.fixture(scope="module")
def responses(zoo_project, tmp_path_factory):
    """The response of each archive to its sample."""
    root = tmp_path_factory.mktemp("alone")
    for name in SEVEN:
        bill = bill_of(zoo_project.model_store / f"{name}-1.0.mar")
        environment(root / "environments" / name, [*ALWAYS, *bill["packages"]])
    python = root / "bin" / "python"
    python.parent.mkdir()
    # A worker starts in the folder of its archive, where the bill of materials is.
    python.write_text(
        "#!/bin/sh\n"
        """name=$(sed -n 's/^ "model": "\\(.*\\)",$/\\1/p' bill-of-materials.json)\n"""
        f'PYTHONPATH="{root}/environments/$name" exec {sys.executable} -S "$@"\n'
    )
    python.chmod(0o755)
    models = [f"{name}={name}-1.0.mar" for name in SEVEN]
    found = {}
    with plain_torchserve(root, zoo_project.model_store, *models) as (address, caller):
        for name in SEVEN:
            sample = read_sample(zoo_project.model_store / f"{name}-1.0.mar")
            found[name] = requests.post(
                f"{address}/predictions/{name}",
                data=sample.input,
                headers={**caller, "Content-Type": sample.content_type},
                timeout=60,
            )
    return found


@pytest.mark.parametrize("name", SEVEN)
def test_an_archive_needs_only_what_it_declares(responses, zoo_project, name):
    sample = read_sample(zoo_project.model_store / f"{name}-1.0.mar")
    response = responses[name]
    assert response.status_code == 200, response.text
    assert find_difference(sample.answer, response.json(), sample.tolerance) is None


def test_the_environments_hold_nothing_else(tmp_path, zoo_project):
    bill = bill_of(zoo_project.model_store / "regression-1.0.mar")
    environment(tmp_path / "regression", [*ALWAYS, *bill["packages"]])
    there = {entry.name for entry in (tmp_path / "regression").iterdir()}
    assert {"torch", "ts", "yaml"} <= there
    assert not there & {"vestal", "vestal_handlers", "torchvision", "transformers", "captum"}
