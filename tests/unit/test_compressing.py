"""Distillation and pruning: really smaller, and the task still done."""

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
from vestal.models import find_model
from vestal.project import Project
from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run, latest_run
from vestal.training.comparison import in_turn
from vestal.training.compressing import taught_by
from vestal.training.distilling import logits_of
from vestal.training.pruning import prune
from vestal.training.settings import Settings
from vestal.training.train import train


@pytest.fixture(scope="module")
def pruned(trained_project, tmp_path_factory):
    start = latest_run(trained_project, "mnist")
    project = Project(tmp_path_factory.mktemp("pruned"))
    chosen = Settings(dataset="digits", epochs=2, prune=0.5, start=str(start), device="cpu")
    return project, train(project, "mnist", chosen)


def test_pruning_makes_a_model_really_smaller(pruned):
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


def test_a_student_learns_from_a_teacher_of_another_architecture(trained_project, tmp_path):
    teacher = latest_run(trained_project, "mnist")
    chosen = Settings(dataset="digits", epochs=3, teacher=str(teacher), device="cpu")
    # The teacher looks at 28 x 28 in grey, the student at 32 x 32 in colour.
    run = train(Project(tmp_path), "lenet5", chosen)
    before, after = run.compression["before"], run.compression["after"]
    assert run.compression["kind"] == "distillation"
    assert after["parameters"] == 62_006 < before["parameters"]
    assert after["accuracy"] > 0.8
    assert {"accuracy", "bytes", "ms_per_batch_of_16"} <= before.keys() & after.keys()


@pytest.mark.parametrize(
    ("model", "chosen", "says"),
    [
        ("mnist", {"teacher": "lenet5", "prune": 0.5}, "two ways to a smaller model"),
        ("mnist", {"prune": 1.5}, "a share between 0 and 1"),
        ("gpt2", {"prune": 0.5}, "for models of convolutions and linear layers"),
        ("regression", {"teacher": "mnist"}, "for classifiers whose module gives logits"),
        ("gpt2", {"start": "w.pth"}, "--start is not for language models"),
    ],
)
def test_what_cannot_be_compressed_is_said_before_training(tmp_path, model, chosen, says):
    dataset = "digits" if model == "mnist" else None
    with pytest.raises(UsageError, match=says):
        train(Project(tmp_path), model, Settings(dataset=dataset, **chosen))
    assert not list(tmp_path.iterdir())


def test_a_teacher_of_other_labels_is_refused(trained_project):
    teacher = Run.read(latest_run(trained_project, "mnist"))
    with pytest.raises(UsageError, match="knows other labels"):
        taught_by(trained_project, teacher, ("cat", "dog"))


def test_a_teacher_without_transforms_takes_what_it_is_given(trained_project, tmp_path):
    folder = shutil.copytree(latest_run(trained_project, "mnist"), tmp_path / "run")
    (folder / "transforms.py").unlink()
    run = Run.read(latest_run(trained_project, "mnist"))
    support = [name for name in run.support if name != "transforms.py"]
    run = dataclasses.replace(run, folder=folder, support=support)
    taught = taught_by(trained_project, run, run.labels)
    given = torch.rand(1, 28, 28)
    assert torch.equal(taught.transform(given), given)


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x, "logits": x.flatten(1)[:, :10]}


def test_a_teacher_of_several_outputs_teaches_with_the_one_that_is_served(
    trained_project, tmp_path
):
    project = Project(tmp_path)
    home = shutil.copytree(find_model(project, "mnist"), project.models / "mnist")
    folder = shutil.copytree(latest_run(trained_project, "mnist"), project.runs / "mnist" / "1")
    run = Run.read(folder)
    torch.jit.script(TwoOutputs()).save(folder / run.artifacts[0])
    image = torch.rand(1, 1, 28, 28)
    with pytest.raises(ValueError, match=r"features.*logits"):
        taught_by(project, run, run.labels).teacher(image)
    config = yaml.safe_load((home / "model-config.yaml").read_text("utf-8"))
    config["handler"]["output"] = "logits"
    (home / "model-config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    taught = taught_by(project, run, run.labels).teacher(image)
    assert torch.equal(taught, image.flatten(1)[:, :10])


def test_a_teachers_probabilities_are_not_softened_twice():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    teach = logits_of(lambda _: logits.softmax(-1), Classification(outputs="probabilities"))
    assert torch.allclose((teach(logits) / 4).softmax(-1), (logits / 4).softmax(-1), atol=1e-6)


class Backwards(torch.nn.Module):
    """Its last layer is the first that it names."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(8, 4)
        self.body = torch.nn.Linear(6, 8)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


class Restless(Backwards):
    """Its outputs are not those of the layer that it calls last."""

    def forward(self, x):
        outputs = super().forward(x)
        self.body(x)
        return outputs


def test_the_output_layer_is_the_one_that_is_called_last():
    module = Backwards()
    prune(module, torch.zeros(2, 6), 0.5)
    assert (module.body.out_features, module.head.out_features) == (4, 4)
    with pytest.raises(UsageError, match=r"would leave outputs \[2, 2\] of \[2, 4\]"):
        prune(Restless(), torch.zeros(2, 6), 0.5)


def test_times_are_taken_in_turn():
    order = []

    class Noting(torch.nn.Module):
        def forward(self, x):
            order.append(x.shape)
            return x

    times = in_turn([(Noting(), torch.zeros(2)), (Noting(), torch.zeros(3))])
    assert order[:4] == [(16, 2), (16, 3)] * 2
    assert len(times) == 2
