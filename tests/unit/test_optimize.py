"""`vestal pack --precision int8`: conversion, calibration, and the comparison with fp32."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import torch
import yaml

from vestal.archive.optimizing import Optimizer
from vestal.archive.pack import pack
from vestal.checking import check
from vestal.errors import UsageError, VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.inprocess.frontend import Frontend
from vestal.mar.index import read_index
from vestal.mar.layout import BILL
from vestal.mar.sample import read_sample
from vestal.model_folders import find_model
from vestal.optimize.data import OptimizationData
from vestal.optimize.gate import measure
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run, latest_run

pytestmark = pytest.mark.heavy

# torch and NNCF warn about their own deprecations while they export and quantize.
FILTERS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def project(trained_project):
    pack(trained_project, "mnist", version="8.0", engine="openvino", precision="int8")
    return trained_project


def test_the_bill_and_the_index_have_the_measurement(project):
    with zipfile.ZipFile(project.model_store / "mnist-8.0.mar") as archive:
        names, bill = archive.namelist(), json.loads(archive.read(BILL))
    assert {"model.xml", "model.bin"} <= set(names)
    assert "model.pt" not in names
    assert (bill["engine"], bill["precision"]) == ("openvino", "int8")
    assert "openvino" in bill["packages"]
    found = bill["optimization"]
    assert found["calibration"] == "digits (training split)"
    assert found["data"] == "digits (test split)"
    assert (found["calibration_inputs"], found["inputs"]) == (300, 360)
    assert found["metric"] == "accuracy"
    assert 100 * (found["before"] - found["after"]) == pytest.approx(found["drop"], abs=1e-3)
    assert found["drop"] <= found["max_drop"] == 0.5
    assert found["agreement"] > 0.95
    assert 0 < found["largest_difference"] < 0.5
    assert read_index(project.model_store)["mnist-8.0.mar"]["optimization"] == found


def test_the_archive_is_checked_and_predicts_in_int8(project):
    archive = project.model_store / "mnist-8.0.mar"
    report = check(archive, run=True)
    assert [found.code for found in report.findings] == ["optimized"]
    assert "accuracy 0." in report.findings[0].meaning
    sample = read_sample(archive)
    with LoadedArchive(archive) as loaded:
        engine = loaded.describe()["engine"]
        (response,) = loaded.predict([Input.raw(sample.input, sample.content_type)])
    assert (engine["name"], engine["precision"]) == ("openvino", "int8")
    assert engine["layers"] == {"int8": 4}
    assert sample.difference(response.json()) is None


def test_the_gate_measures_a_real_drop(project, tmp_path):
    """Of two trainings, one is better: the sign of the drop tells which."""
    recipe = load_recipe(project, "mnist")
    run = Run.read(latest_run(project, "mnist"))
    data = OptimizationData(max_drop=50.0)
    _, evaluation = data.load(recipe, run, lambda *_: [], dict, calibrated=False)
    store = project.model_store
    folders = []
    for version in ("1.0", "2.0"):
        shutil.unpack_archive(store / f"mnist-{version}.mar", tmp_path / version, "zip")
        folders.append(tmp_path / version)
    there, back = (
        measure(recipe, *pair, "mnist", evaluation, Frontend.of(project))
        for pair in (folders, folders[::-1])
    )
    assert there.drop == pytest.approx(-back.drop)
    assert there.agreement == back.agreement < 1
    assert there.metric == "accuracy"
    accuracies = [read_index(store)[f"mnist-{v}.0.mar"]["metrics"]["accuracy"] for v in (1, 2)]
    assert [there.before, there.after] == pytest.approx(accuracies, abs=1e-5)


def test_a_larger_drop_is_refused_with_the_numbers(trained_project, monkeypatch):
    """The loss is real: the weights are replaced by those of a worse training."""
    worse = Run.read(trained_project.runs / "mnist" / "1")
    broken = trained_project.root / "broken"
    shutil.copytree(worse.folder, broken)
    module = torch.jit.load(broken / "model.pt")
    with torch.no_grad():
        module.fc2.bias[0] += 100  # every image is a zero
    original = Optimizer.stage

    def stage(self, target, *arguments, **names):
        import vestal.archive.optimizing as optimizing

        stage_all = optimizing.stage

        def damage(folder, *rest, **options):
            artifact = stage_all(folder, *rest, **options)
            module.save(folder / artifact)
            return artifact

        monkeypatch.setattr(optimizing, "stage", damage)
        return original(self, target, *arguments, **names)

    monkeypatch.setattr(Optimizer, "stage", stage)
    with pytest.raises(
        VestalError, match=r"torchscript in fp32 loses too much: accuracy 9.*0\.5 is"
    ):
        pack(trained_project, "mnist", version="8.9", data=OptimizationData())
    assert not (trained_project.model_store / "mnist-8.9.mar").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "torchscript"}, "the torchscript engine has no int8: pass --engine onnx or op"),
        ({}, "the torchscript engine has no int8"),
    ],
)
def test_an_engine_without_int8_is_refused(trained_project, options, message):
    with pytest.raises(UsageError, match=message):
        pack(trained_project, "mnist", version="8.1", precision="int8", **options)


@FILTERS
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("lenet5", "openvino"),
        ("fashion_mlp", "onnx"),
        ("simplenet", "openvino"),
        ("regression", "openvino"),
    ],
)
def test_the_zoo_in_int8_is_measured(tmp_path, model, engine):
    from vestal.training.settings import Settings
    from vestal.training.train import train

    project = Project(tmp_path)
    datasets = load_recipe(project, model).datasets
    dataset = "digits" if "digits" in datasets else next(iter(datasets))
    train(project, model, Settings(dataset=dataset, epochs=3, device="cpu"))

    def make():
        data = OptimizationData(max_drop=2.0)
        return pack(project, model, version="1.0", engine=engine, precision="int8", data=data)

    if model == "regression":  # three features, and an output that is a number
        with pytest.raises(VestalError, match="loses too much"):
            make()
        return
    packed = make()
    assert packed.optimization.measurement.metric == "accuracy"
    assert packed.optimization.measurement.drop <= 2.0
    with LoadedArchive(packed.archive) as loaded:
        assert loaded.describe()["engine"]["precision"] == "int8"


ENGINE = """
import torch

class Mine:
    module = None

    def __init__(self, artifact):
        self.model = torch.jit.load(str(artifact))

    def __call__(self, batch):
        with torch.inference_mode():
            return self.model(batch){change}

    def describe(self):
        return {{"name": "mine", "precision": "fp32"}}


def load(artifact, device, precision):
    return Mine(artifact)
"""


@pytest.mark.parametrize("change", ["", " + torch.arange(10)"])
def test_an_engine_of_ones_own_travels_and_is_compared(trained_project, change):
    """The weights are TorchScript, and were trained before mine.py was written."""
    folder = trained_project.models / "mnist"
    shutil.copytree(find_model(trained_project, "mnist"), folder, dirs_exist_ok=True)
    config = yaml.safe_load((folder / "model-config.yaml").read_text())
    config["handler"]["engine"] = "mine"
    try:
        (folder / "model-config.yaml").write_text(yaml.safe_dump(config))
        (folder / "mine.py").write_text(ENGINE.format(change=change))
        version = f"7.{len(change)}"
        if change:
            with pytest.raises(VestalError, match="mine engine in fp32 predicts the sample differ"):
                pack(trained_project, "mnist", version=version)
        else:
            archive = pack(trained_project, "mnist", version=version).archive
            with LoadedArchive(archive) as loaded:
                assert loaded.describe()["engine"]["name"] == "mine"
            with zipfile.ZipFile(archive) as content:
                assert "mine.py" in content.namelist()
    finally:
        shutil.rmtree(folder)
