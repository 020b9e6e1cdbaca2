"""Initial weights of a training: from a file, a run, or a function of the recipe."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.recipes.recipe import LoadedDataSet, Splits, identity, load_recipe
from vestal.runs import find_run
from vestal.training.settings import Settings
from vestal.training.strategy import Strategy
from vestal.weights.initial_weights import locate_weights, read_weights, state_file, transfer


def network(classes, width=8):
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes)
    )


def test_with_another_number_of_classes_the_last_layer_keeps_its_values():
    theirs, ours = network(5), network(2)
    fresh = ours[3].weight.clone()
    transfer(theirs.state_dict(), "w.pth", ours)
    assert torch.equal(ours[0].weight, theirs[0].weight)
    assert torch.equal(ours[1].running_mean, theirs[1].running_mean)
    assert torch.equal(ours[3].weight, fresh)


def test_weights_of_another_architecture_are_refused_by_name():
    with pytest.raises(VestalError, match=r"w\.pth fits 1 of the model's 8 tensors \(not 0"):
        transfer(network(2, width=16).state_dict(), "w.pth", network(2))


def test_a_training_starts_from_a_checkpoint_of_another_class_count(tmp_path):
    project = Project(tmp_path)
    recipe = load_recipe(project, "resnet18")
    theirs = recipe.make(["x"] * 7)
    wrapped = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "w.pth")
    settings = Settings(dataset="folder", initial_weights=str(tmp_path / "w.pth"))
    data = LoadedDataSet(
        name="folder",
        folder=tmp_path,
        dataset=recipe.datasets["folder"],
        splits=Splits((), (), (), ("cat", "dog")),
        transform=identity,
    )
    module = Strategy(project, "resnet18", recipe, settings).build_module(data, torch.zeros(2))
    assert torch.equal(module.conv1.weight, theirs.conv1.weight)
    assert module.fc.out_features == 2


@pytest.mark.heavy
def test_a_training_starts_from_a_run_or_a_name_of_the_recipe(trained_project):
    recipe = load_recipe(trained_project, "mnist")
    state, source = read_weights(trained_project, recipe, "mnist")
    assert source.endswith("runs/mnist/2/model.pth")
    assert "fc2.weight" in state
    state, source = read_weights(
        trained_project, load_recipe(trained_project, "resnet18"), "random"
    )
    assert "mean nothing" in source
    assert len(state["fc.bias"]) == 1000


@pytest.mark.heavy
def test_initial_weights_are_pinned_to_paths(trained_project, tmp_path):
    recipe = load_recipe(trained_project, "resnet18")
    (tmp_path / "w.pth").touch()
    newest = str(trained_project.runs / "mnist" / "2")
    for name, pinned in (("random", "random"), ("mnist", newest)):
        assert locate_weights(trained_project, recipe, name) == pinned
    assert locate_weights(trained_project, recipe, str(tmp_path / "w.pth")) == str(
        tmp_path / "w.pth"
    )
    with pytest.raises(
        UsageError, match=r"no initial weights w\.pth: .*of the recipe: imagenet, random"
    ):
        locate_weights(trained_project, recipe, "w.pth")


def test_a_file_without_weights_is_refused_with_one_sentence(tmp_path):
    recipe = load_recipe(Project(tmp_path), "mnist")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(VestalError, match=r"w\.pth holds more than tensors"):
        read_weights(Project(tmp_path), recipe, str(tmp_path / "w.pth"))


@pytest.mark.heavy
def test_a_folder_with_the_name_of_a_model_is_not_a_run(trained_project, monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_run(trained_project, "mnist").folder.name == "2"
    with pytest.raises(VestalError, match="not a finished training"):
        find_run(trained_project, str(tmp_path / "mnist"))


def test_imagenets_weights_are_never_unpickled(tmp_path):
    """A file with their name in torch's cache is read as tensors only."""

    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        (tmp_path / "checkpoints").mkdir()
        cached = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
        cached.write_bytes(pickle.dumps(Evil(), protocol=2))
        recipe = load_recipe(Project(tmp_path), "resnet18")
        with pytest.raises(VestalError, match=r"not available .*--initial-weights FILE"):
            recipe.weights["imagenet"]()
    finally:
        torch.hub.set_dir(before)
    assert not (tmp_path / "ran").exists()


@pytest.mark.heavy
def test_a_run_without_a_state_dict_is_refused(trained_project):
    run = replace(find_run(trained_project, "mnist"), artifacts=["model.onnx"])
    with pytest.raises(UsageError, match=r"holds model\.onnx: initial weights must be a state"):
        state_file(run)
