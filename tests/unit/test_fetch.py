"""`vestal fetch`: weights from the wheel of a package, which is verified and never run."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile

import pytest
import torch
import yaml

from vestal.archive.pack import pack
from vestal.errors import UsageError, VestalError
from vestal.model_folders import zoo
from vestal.project import Project
from vestal.runs import Run
from vestal.weights.fetch import fetch, fetched, package_of

MODEL = "from torch import nn\n\ndef build():\n    return nn.Linear(4, 1)\n"
HANDLER = """
import torch
from vestal_handlers import BatchHandler

class Handler(BatchHandler):
    def example_input(self):
        return torch.zeros(4)

    def decode(self, instance):
        return torch.tensor(instance.payload)

    def encode(self, output, instance):
        return output.item()

    def example(self):
        return [1.0, 2.0, 3.0, 4.0]
"""


@pytest.fixture
def wheel(tmp_path):
    file = tmp_path / "tiny_weights-1.0-py3-none-any.whl"
    weights = tmp_path / "weights.pth"
    torch.save(torch.nn.Linear(4, 1).state_dict(), weights)
    with zipfile.ZipFile(file, "w") as content:
        content.write(weights, "tiny_weights/models/linear.pth")
        content.writestr("tiny_weights/__init__.py", "raise SystemExit('its code ran')")
    return file


@pytest.fixture
def project(tmp_path, wheel):
    project = Project(tmp_path / "project")
    folder = project.models / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "handler.py").write_text(HANDLER)
    (folder / "model-config.yaml").write_text("batchSize: 1\n")
    spec = {
        "package": "tiny-weights",
        "version": "1.0",
        "file": wheel.name,
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "megabytes": 1,
        "licence": "MIT",
        "weights": "tiny_weights/models/linear.pth",
    }
    (folder / "fetch.yaml").write_text(yaml.safe_dump(spec))
    return project


def vestal(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "vestal", *arguments],
        cwd=project.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.heavy
def test_fetched_weights_are_a_run_that_can_be_packed(project, wheel):
    with pytest.raises(UsageError, match=r"Get its weights with `vestal fetch tiny`"):
        pack(project, "tiny", version="1.0")
    package = package_of(project, "tiny")
    assert fetched(project, "tiny", package) is None
    run = fetch(project, "tiny", package, wheel)
    assert (run.folder, run.dataset) == (project.runs / "tiny" / "1", "tiny-weights 1.0")
    assert fetched(project, "tiny", package) == Run.read(run.folder)
    assert [file.name for file in run.folder.parent.iterdir()] == ["1"]
    packed = pack(project, "tiny", version="1.0")
    assert packed.no_sample is None
    with zipfile.ZipFile(packed.archive) as archive:
        assert "fetch.yaml" not in archive.namelist()


@pytest.mark.slow
def test_the_command_shows_size_and_licence_first(project, wheel):
    asked = vestal(project, "fetch", "tiny")
    assert asked.returncode == 2
    assert "tiny-weights 1.0 from the Python package index: 1 MB, MIT" in asked.stderr
    assert "pass --yes to download 1 MB" in asked.stderr
    done = vestal(project, "fetch", "tiny", "--file", str(wheel), "--json")
    assert json.loads(done.stdout)["new"] is True
    again = vestal(project, "fetch", "tiny")
    assert again.stdout.startswith("Already there: ")


def test_another_file_is_refused(project, wheel):
    package = package_of(project, "tiny")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(VestalError, match=r"not the expected file: its sha256 is .*Nothing was"):
        fetch(project, "tiny", package, wheel)
    with pytest.raises(UsageError, match=r"no file .*: --file expects tiny_weights-1\.0"):
        fetch(project, "tiny", package, wheel.with_name("none.whl"))
    assert not list((project.runs / "tiny").iterdir())


@pytest.mark.heavy
def test_without_an_index_it_says_which_file_to_pass(project, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    done = vestal(project, "fetch", "tiny", "--yes")
    assert done.returncode == 1
    assert "tiny-weights==1.0 cannot be downloaded" in done.stderr
    assert "vestal fetch tiny --file tiny_weights-1.0-py3-none-any.whl" in done.stderr


def test_models_without_a_package_name_those_with_one(project):
    with pytest.raises(UsageError, match=r"mnist has no fetch\.yaml; .* chat, embedder, imagenet"):
        package_of(project, "mnist")
    (project.models / "tiny" / "fetch.yaml").write_text("package: x\n")
    with pytest.raises(UsageError, match=r"fetch\.yaml cannot be read .* expected package,"):
        package_of(project, "tiny")


def test_the_zoo_names_its_packages():
    for name in ("imagenet", "embedder", "chat"):
        package = package_of(Project(zoo().parent), name)
        assert len(package.sha256) == 64
        assert package.file.startswith(package.package.replace("-", "_"))
