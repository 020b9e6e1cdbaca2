"""Import weights in every format, and pack them."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import torch
from pets_weights import (
    LABELS,
    import_pets,
    pets_module,
)
from pets_weights import project as project  # a fixture
from safetensors.torch import save_file

from vestal.archive.pack import pack
from vestal.errors import VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.mar.sample import read_sample
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.scaffold import create
from vestal.weights import saving
from vestal_handlers.model_files import load_module

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def module(project):
    return pets_module(project)


FILES = {
    "state_dict": "weights.pth",
    "safetensors": "weights.safetensors",
    "torchscript": "weights.pt",
    "exported": "weights.pt2",
    "onnx": "weights.onnx",
    "onnx with weights in a second file": "external.onnx",
}


@pytest.fixture(scope="module")
def files(module, tmp_path_factory):
    """The same weights in every format, as other tools save them."""
    folder = tmp_path_factory.mktemp("files")
    for kind, name in FILES.items():
        if kind not in saving.ARTIFACTS:
            import onnx

            model = onnx.load(folder / FILES["onnx"])
            # As torch.onnx.export leaves them without external_data=False.
            external = {"save_as_external_data": True, "location": f"{name}.data"}
            onnx.save(model, folder / name, size_threshold=0, **external)
            continue
        saving.save(module, [kind], folder, torch.zeros(2, 3, 64, 64))
        (folder / saving.ARTIFACTS[kind]).rename(folder / name)
    return folder


@pytest.mark.parametrize("kind", FILES)
def test_the_archive_of_every_format_predicts_like_the_module(kind, project, module, files):
    version = f"1.{list(FILES).index(kind)}"
    packed = pack(project, "pets", version=version, weights=files / FILES[kind], labels=LABELS)
    assert packed.source == FILES[kind]
    sample = read_sample(packed.archive)
    with LoadedArchive(packed.archive) as loaded:
        (answer,) = loaded.predict([Input.raw(sample.input, sample.content_type)])
    transform = load_module(find_model(project, "pets"), "transforms").transform
    with torch.inference_mode():
        expected = module(transform.example_input().unsqueeze(0)).softmax(-1)[0]
    probabilities = {one["label"]: one["probability"] for one in answer.json()["top"]}
    assert [probabilities[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", ["torchscript", "exported", "onnx"])
def test_a_model_file_with_another_number_of_classes_is_refused(kind, project, files):
    with pytest.raises(VestalError, match=r"3 outputs, but there are 2 labels"):
        pack(project, "pets", version="9", weights=files / FILES[kind], labels=("cat", "dog"))
    assert not (project.model_store / "pets-9.mar").exists()


def test_onnx_weights_in_a_missing_second_file_are_refused(project, files, tmp_path):
    shutil.copyfile(files / "external.onnx", tmp_path / "external.onnx")
    with pytest.raises(VestalError, match=r"external\.onnx has its weights in a second file"):
        import_pets(project, tmp_path / "external.onnx", tmp_path)


@pytest.mark.slow
def test_imported_weights_are_converted_for_another_engine(project, files):
    packed = pack(
        project, "pets", version="2.0", weights=files / FILES["state_dict"], labels=LABELS,
        engine="onnx",
    )  # fmt: skip
    with zipfile.ZipFile(packed.archive) as archive:
        assert "model.onnx" in archive.namelist()
        bill = json.loads(archive.read("bill-of-materials.json"))
    assert (bill["engine"], bill["artifact"]) == ("onnx", "model.onnx")
    assert bill["training"] == {"dataset": "weights.pth", "seed": None, "metrics": {}}


@pytest.mark.slow
def test_the_sample_of_an_imported_regressor_is_the_handlers_example(tmp_path):
    project = Project(tmp_path)
    create(project, "prices", "regressor")
    module = load_module(find_model(project, "prices"), "model").build()
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    archives = [
        pack(project, "prices", version=version, weights=tmp_path / "w.safetensors", engine=engine)
        for version, engine in (("1", None), ("2", "exported"))
    ]
    samples = [read_sample(packed.archive) for packed in archives]
    assert json.loads(samples[0].input) == {"bmi": 0.0, "bp": 0.0, "s5": 0.0}
    assert samples[0].answer == samples[1].answer
