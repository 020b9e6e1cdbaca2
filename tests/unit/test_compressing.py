"""Distillation and pruning: really smaller, and the task still done."""

from __future__ import annotations

import pytest
import torch

from vestal.archive.pack import pack
from vestal.errors import UsageError
from vestal.project import Project
from vestal.runs import latest_run
from vestal.training.compressing import Settings, prune
from vestal.training.recipe import load_recipe
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
        ("mnist", {"start": "mnist"}, "say --prune FRACTION too"),
    ],
)
def test_what_cannot_be_compressed_is_said_before_training(tmp_path, model, chosen, says):
    dataset = "digits" if model == "mnist" else None
    with pytest.raises(UsageError, match=says):
        train(Project(tmp_path), model, Settings(dataset=dataset, **chosen))
    assert not list(tmp_path.iterdir())


def test_a_teacher_of_other_labels_is_refused(trained_project, tmp_path):
    teacher = str(latest_run(trained_project, "mnist"))
    recipe = load_recipe(trained_project, "resnet18")
    assert recipe.labels
    from vestal.training.compressing import plan

    with pytest.raises(UsageError, match="knows other labels"):
        plan(
            Project(tmp_path),
            "resnet18",
            recipe,
            recipe.labels,
            torch.zeros(2, 3, 64, 64),
            Settings(teacher=teacher),
        )
