"""The inputs of `vestal pack --precision int8`: data sets, folders, and too little of them."""

from __future__ import annotations

import pytest
from idx_files import write_idx_set

from vestal.archive.pack import pack
from vestal.cli.run_inputs import RunInputs, requests_of
from vestal.errors import UsageError, VestalError
from vestal.optimize.data import OptimizationData
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import latest_run

pytestmark = pytest.mark.heavy

# torch and NNCF warn about their own deprecations while they export and quantize.
FILTERS = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def read(path, schema):
    return requests_of(RunInputs([str(path)]).read(), schema)


@pytest.fixture
def digits(trained_project, tmp_path):
    """Writes that many inputs of the test split into a folder, by label."""
    from vestal.evaluation.predictions import request_body, target_at

    recipe = load_recipe(trained_project, "mnist")
    splits = recipe.splits("digits")

    def write(name, count, start=0):
        for index in range(start, start + count):
            label = str(target_at(splits.test, index))
            file = tmp_path / name / label / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(request_body(recipe, splits.test, index).content)
        return tmp_path / name

    return write


def int8(project, *, version="8.2", read=read, **data):
    return pack(
        project,
        "mnist",
        version=version,
        engine="openvino",
        precision="int8",
        data=OptimizationData(**data),
        read=read,
    )


def test_too_little_data_is_refused(trained_project, digits):
    labelled, few = str(digits("labelled", 40)), str(digits("few", 31, 300))
    with pytest.raises(UsageError, match=r"labelled has 40 inputs .* with at least 200: pass more"):
        int8(trained_project, evaluate=labelled)
    with pytest.raises(UsageError, match=r"few has 31 inputs for the calibration, and .* 32"):
        int8(trained_project, calibrate=few, evaluate=labelled, max_drop=5)
    with pytest.raises(UsageError, match=r"labelled has 0 .*\(40 more are also in the evaluation"):
        int8(trained_project, calibrate=labelled, evaluate=labelled, max_drop=5)
    with pytest.raises(UsageError, match=r"--evaluate nowhere: there is no such file, folder or"):
        int8(trained_project, evaluate="nowhere")


@FILTERS
def test_the_data_set_may_be_in_any_place(trained_project, tmp_path):
    write_idx_set(tmp_path / "MNIST" / "raw")
    given = {"calibrate": "mnist", "evaluate": "mnist", "place": tmp_path, "max_drop": 100}
    text = int8(trained_project, version="8.6", **given).optimization.text()
    # Of the 20 inputs of the test, 18 are among the 90 of the training.
    assert "Calibrated with 72 inputs of mnist (training split)" in text
    assert "on 20 inputs of mnist (test split)" in text
    with pytest.raises(VestalError, match=r"the data set mnist is not in .*nowhere"):
        int8(trained_project, evaluate="mnist", place=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="the data set digits takes no --data"):
        int8(trained_project, place=tmp_path)


def test_imported_weights_need_inputs(trained_project, tmp_path):
    weights = latest_run(trained_project, "mnist") / "model.pt"
    with pytest.raises(UsageError, match=r"no data set to use .* come from model\.pt: pass --eval"):
        pack(
            Project(tmp_path),
            "mnist",
            version="1",
            weights=weights,
            engine="onnx",
            precision="int8",
        )


@FILTERS
@pytest.mark.slow
def test_folders_give_accuracy_and_the_same_bytes_again(trained_project, digits):
    data = {"calibrate": str(digits("unlabelled", 64)), "evaluate": str(digits("held", 250, 80))}
    first = int8(trained_project, **data)
    assert first.optimization.measurement.metric == "accuracy"
    assert first.optimization.measurement.inputs == 250
    assert first.optimization.calibration_inputs == 64
    assert not int8(trained_project, **data).new
