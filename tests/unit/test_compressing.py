"""Distillation and pruning: smaller models that still do their task."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from vestal.archive.pack import pack
from vestal.errors import UsageError
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run, latest_run
from vestal.training.comparison import interleaved_times
from vestal.training.distillation import load_teacher, logits_of
from vestal.training.pruning import prune
from vestal.training.settings import Settings
from vestal.training.train import train

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def pruned(trained_project, tmp_path_factory):
    start = latest_run(trained_project, "mnist")
    project = Project(tmp_path_factory.mktemp("pruned"))
    settings = Settings(
        dataset="digits", epochs=2, prune=0.5, initial_weights=str(start), device="cpu"
    )
    return project, train(project, "mnist", settings)


def test_pruning_makes_a_model_smaller(pruned):
    _, run = pruned
    before, after = run.compression["before"], run.compression["after"]
    # Half of the channels on both sides of a layer leave a quarter of its weights.
    assert after["parameters"] < 0.3 * before["parameters"]
    assert after["bytes"] < 0.3 * before["bytes"]
    assert after["accuracy"] > 0.9
    assert (run.folder / run.artifacts[0]).stat().st_size < 0.4 * before["bytes"]
    assert before["accuracy"] == Run.read(Path(before["run"])).test["accuracy"]
    assert after["accuracy"] == run.test["accuracy"]


def test_a_pruned_model_packs_and_serves(pruned):
    project, run = pruned
    assert run.artifacts == ["model.pt", "model.pt2"]
    assert pack(project, "mnist", version="1.0-half", weights=run.folder).new


def test_pruning_keeps_every_output(trained_project):
    module = load_recipe(trained_project, "lenet5").make(None)
    example = torch.zeros(2, 3, 32, 32)
    prune(module, example, 0.5)
    assert module.conv1.out_channels == 3
    assert module(example).shape == (2, 10)


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_of_another_architecture(trained_project, tmp_path):
    teacher = latest_run(trained_project, "mnist")
    settings = Settings(dataset="digits", epochs=3, teacher=str(teacher), device="cpu")
    # The teacher takes grayscale images of 28 x 28, the student color images of 32 x 32.
    run = train(Project(tmp_path), "lenet5", settings)
    before, after = run.compression["before"], run.compression["after"]
    assert run.compression["kind"] == "distillation"
    assert after["parameters"] == 62_006 < before["parameters"]
    assert after["accuracy"] > 0.8
    assert {"accuracy", "bytes", "ms_per_batch_of_16"} <= before.keys() & after.keys()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("mnist", {"teacher": "lenet5", "prune": 0.5}, "--teacher and --prune exclude each other"),
        ("mnist", {"prune": 1.5}, "--prune must be between 0 and 1"),
        ("gpt2", {"prune": 0.5}, "requires a model of convolutions and linear layers"),
        ("regression", {"teacher": "mnist"}, "requires a classifier whose module returns logits"),
        ("gpt2", {"initial_weights": "w.pth"}, "--initial-weights is not available for language"),
    ],
)
def test_invalid_options_are_refused_before_training(tmp_path, model, options, message):
    dataset = "digits" if model == "mnist" else None
    with pytest.raises(UsageError, match=message):
        train(Project(tmp_path), model, Settings(dataset=dataset, **options))
    assert not list(tmp_path.iterdir())


def test_a_teacher_with_other_labels_is_refused(trained_project):
    teacher = Run.read(latest_run(trained_project, "mnist"))
    with pytest.raises(UsageError, match="has other labels"):
        load_teacher(trained_project, teacher, ("cat", "dog"))


def test_a_teacher_without_transforms_takes_its_inputs_unchanged(trained_project, tmp_path):
    folder = shutil.copytree(latest_run(trained_project, "mnist"), tmp_path / "run")
    (folder / "transforms.py").unlink()
    run = Run.read(latest_run(trained_project, "mnist"))
    support = [name for name in run.support if name != "transforms.py"]
    run = dataclasses.replace(run, folder=folder, support=support)
    teacher = load_teacher(trained_project, run, run.labels)
    image = torch.rand(1, 28, 28)
    assert torch.equal(teacher.transform(image), image)


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x, "logits": x.flatten(1)[:, :10]}


def test_a_teacher_with_several_outputs_uses_the_one_that_is_served(trained_project, tmp_path):
    project = Project(tmp_path)
    home = shutil.copytree(find_model(project, "mnist"), project.models / "mnist")
    folder = shutil.copytree(latest_run(trained_project, "mnist"), project.runs / "mnist" / "1")
    run = Run.read(folder)
    torch.jit.script(TwoOutputs()).save(folder / run.artifacts[0])
    image = torch.rand(1, 1, 28, 28)
    with pytest.raises(ValueError, match=r"features.*logits"):
        load_teacher(project, run, run.labels).logits(image)
    config = yaml.safe_load((home / "model-config.yaml").read_text("utf-8"))
    config["handler"]["output"] = "logits"
    (home / "model-config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    logits = load_teacher(project, run, run.labels).logits(image)
    assert torch.equal(logits, image.flatten(1)[:, :10])


def test_a_teachers_probabilities_are_not_softened_twice():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    teacher_logits = logits_of(
        lambda _: logits.softmax(-1), Classification(outputs="probabilities")
    )
    assert torch.allclose(
        (teacher_logits(logits) / 4).softmax(-1), (logits / 4).softmax(-1), atol=1e-6
    )


class Backwards(torch.nn.Module):
    """The layer that is called last is defined first."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(8, 4)
        self.body = torch.nn.Linear(6, 8)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


class ExtraCall(Backwards):
    """The outputs are not those of the layer that is called last."""

    def forward(self, x):
        outputs = super().forward(x)
        self.body(x)
        return outputs


def test_the_output_layer_is_the_one_that_is_called_last():
    module = Backwards()
    prune(module, torch.zeros(2, 6), 0.5)
    assert (module.body.out_features, module.head.out_features) == (4, 4)
    with pytest.raises(UsageError, match=r"would change .* from \[2, 4\] to \[2, 2\]"):
        prune(ExtraCall(), torch.zeros(2, 6), 0.5)


def test_times_are_taken_interleaved_times():
    order = []

    class Recorder(torch.nn.Module):
        def forward(self, x):
            order.append(x.shape)
            return x

    times = interleaved_times([(Recorder(), torch.zeros(2)), (Recorder(), torch.zeros(3))])
    assert order[:4] == [(16, 2), (16, 3)] * 2
    assert len(times) == 2
