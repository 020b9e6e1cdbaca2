"""Import language models: folders of Hugging Face transformers."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile

import pytest
import torch
from pets_weights import (
    LABELS,
    Evil,
)
from pets_weights import project as project  # a fixture
from safetensors.torch import save_file

from vestal.archive.pack import pack
from vestal.errors import VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.scaffold import create
from vestal.weights.import_weights import import_weights
from vestal_handlers.model_files import load_module


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A folder as transformers saves it, with code next to it that must not run."""
    from vestal.training.language import byte_level_bpe

    project = Project(tmp_path_factory.mktemp("language"))
    create(project, "poet", "text_generator")
    folder = project.root / "downloaded"
    load_module(find_model(project, "poet"), "model").build().save_pretrained(folder)
    byte_level_bpe(["to be or not to be"], vocabulary=300).save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(project.root / 'ran')!r}, 'w')\n")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(project.root / "ran")))
    return project, folder


def test_a_hugging_face_folder_is_packed_and_its_code_is_not_run(language_model):
    project, folder = language_model
    packed = pack(project, "poet", version="1.0", weights=folder)
    with zipfile.ZipFile(packed.archive) as archive:
        names = archive.namelist()
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(names)
    assert not {"evil.py", "pytorch_model.bin"} & set(names)
    with LoadedArchive(packed.archive) as loaded:
        (answer,) = loaded.predict([Input.raw(b'{"prompt": "to be"}', "application/json")])
    assert answer.status == 200
    assert not (project.root / "ran").exists()


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_error_for_an_incomplete_folder_names_the_file(missing, language_model, tmp_path):
    project, folder = language_model
    part = tmp_path / "part"
    part.mkdir()
    for file in {"model.safetensors", "config.json", "tokenizer.json"} - {missing}:
        (part / file).symlink_to(folder / file)
    with pytest.raises(VestalError, match=rf"no {missing}.*save_pretrained"):
        import_weights(project, "poet", str(part), tmp_path / "run")


OTHER_FILES = ("model.fp16.safetensors", "adapter_model.safetensors", "vae.safetensors")


@pytest.fixture
def downloaded(language_model, tmp_path):
    """A copy of the folder that one test may change."""
    project, folder = language_model
    return project, shutil.copytree(folder, tmp_path / "downloaded")


@pytest.mark.parametrize("other", OTHER_FILES)
def test_other_weights_in_the_folder_are_ignored(other, downloaded, tmp_path):
    project, folder = downloaded
    save_file({"other": torch.zeros(1)}, folder / other)
    run = import_weights(project, "poet", str(folder), tmp_path / "run")
    assert run.artifacts == ["model.safetensors"]
    used = (tmp_path / "run/model.safetensors").read_bytes()
    assert used == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            r"holds 2 shards without their index: copy model\.safetensors\.index\.json too",
        ),
        (["a.safetensors", "b.safetensors"], r"holds a\.safetensors, b\.safetensors: rename"),
        (["adapter_model.safetensors"], r"an adapter \(.*\) without adapter_config\.json"),
    ],
)
def test_incomplete_shards_and_adapters_are_refused(names, message, downloaded, tmp_path):
    project, folder = downloaded
    (folder / "model.safetensors").unlink()
    for name in names:
        save_file({"weight": torch.zeros(1)}, folder / name)
    with pytest.raises(VestalError, match=message):
        import_weights(project, "poet", str(folder), tmp_path / "run")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_a_downloaded_folder_is_not_followed(file, downloaded, tmp_path):
    project, folder = downloaded
    (folder / file).rename(tmp_path / "elsewhere")
    (folder / file).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VestalError, match=rf"{file} is a link to .*elsewhere, outside of its"):
        import_weights(project, "poet", str(folder), tmp_path / "run")


def test_links_in_the_hubs_cache_are_followed(downloaded, tmp_path):
    """In the cache, models--org--name/snapshots/REVISION/config.json is ../../blobs/HASH."""
    project, folder = downloaded
    hub = tmp_path / "models--org--poet"
    (hub / "blobs").mkdir(parents=True)
    (hub / "snapshots/c0ffee").mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(hub / "blobs" / str(number))
        (hub / "snapshots/c0ffee" / file.name).symlink_to(f"../../blobs/{number}")
    run = import_weights(project, "poet", str(hub / "snapshots/c0ffee"), tmp_path / "run")
    assert run.artifacts == ["model.safetensors"]


def test_a_folder_for_a_classifier_and_a_file_for_a_language_model_are_refused(
    language_model, project, tmp_path
):
    poets, folder = language_model
    with pytest.raises(
        VestalError, match=r"is a Hugging Face folder, but the task .* under a new name"
    ):
        import_weights(project, "pets", str(folder), tmp_path / "a", LABELS)
    with pytest.raises(VestalError, match=r"a language model must be a folder"):
        import_weights(poets, "poet", str(folder / "model.safetensors"), tmp_path / "b")
