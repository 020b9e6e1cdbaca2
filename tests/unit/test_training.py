"""Train a recipe: seeds, the best epoch, early stopping, and the files of a run."""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch

from vestal.errors import UsageError, VestalError
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.recipes.objectives import Classification, NextToken, Regression
from vestal.recipes.recipe import DataSet, Recipe, Splits, identity, load_recipe, load_transform
from vestal.runs import TRANSFORMS, Run, latest_run
from vestal.training import loop
from vestal.training.datasets import Images, digits
from vestal.training.language import Blocks
from vestal.training.loop import Learner, fit, measure
from vestal.training.settings import Settings
from vestal.training.tables import Rows
from vestal.training.train import train
from vestal_handlers import engines

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(Project.here(), "mnist")


@pytest.fixture(scope="module")
def transform():
    return load_transform(Project.here(), "mnist", "transforms")


@pytest.fixture(scope="module")
def small_splits():
    """A small part of the digits."""
    full = digits()
    indices = np.arange(160)
    parts = (part.pick(indices) for part in (full.train, full.validation, full.test))
    return Splits(*parts, labels=full.labels)


def test_the_message_about_an_unknown_data_set_lists_the_known_ones(recipe):
    with pytest.raises(UsageError, match=r"unknown data set 'cifar'; this recipe has digits, mni"):
        recipe.splits("cifar")


def test_the_transform_takes_a_batch_and_a_single_image(transform):
    images = digits().test.images[:8]
    one_by_one = torch.stack([transform(image) for image in images])
    assert torch.equal(transform(images), one_by_one)


def learner_of(recipe, small_splits, seed=0):
    torch.manual_seed(seed)
    return Learner(recipe, recipe.make(small_splits.labels), small_splits.labels, seed)


def test_the_same_seed_gives_the_same_weights(recipe, small_splits, transform, tmp_path):
    states = [
        fit(
            learner_of(recipe, small_splits, seed),
            small_splits,
            transform,
            tmp_path / str(n),
            epochs=1,
            device="cpu",
        ).module.state_dict()
        for n, seed in enumerate((3, 3, 4))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["fc2.weight"], states[2]["fc2.weight"])


def test_the_best_epoch_is_kept(recipe, small_splits, transform, tmp_path):
    # With this learning rate the model gets worse later: the best epoch is not the last.
    unstable = dataclasses.replace(recipe, learning_rate=1.0)
    trained = fit(
        learner_of(unstable, small_splits),
        small_splits,
        transform,
        tmp_path,
        epochs=3,
        device="cpu",
    )
    measured = measure(
        trained.module, unstable, small_splits.validation, transform, small_splits.labels
    )
    assert trained.validation == pytest.approx(measured, abs=1e-6)
    history = json.loads((tmp_path / "history.json").read_text())
    losses = [row["val_loss"] for row in history]
    assert trained.best_epoch == losses.index(min(losses)) + 1
    assert not trained.module.training


def test_training_stops_early_if_the_validation_loss_does_not_fall(
    recipe, small_splits, transform, tmp_path
):
    unstable = dataclasses.replace(recipe, learning_rate=1.0, patience=2)
    trained = fit(
        learner_of(unstable, small_splits),
        small_splits,
        transform,
        tmp_path,
        epochs=30,
        device="cpu",
    )
    assert trained.epochs == trained.best_epoch + 2 < 30


def test_accuracy_counts_over_all_examples(recipe, transform):
    class Always3(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    images = torch.zeros(70, 1, 28, 28, dtype=torch.uint8)
    examples = Images(images, torch.arange(70) % 10)
    metrics = measure(Always3(), recipe, examples, transform, recipe.labels)
    assert metrics == {"accuracy": pytest.approx(0.1)}


def test_an_unavailable_device_is_refused_with_the_available_ones():
    with pytest.raises(UsageError, match=r"device 'tpu' is not available .*one of: cpu"):
        Settings(device="tpu")


def test_a_run_has_the_files_that_packing_requires(trained_project):
    folder = latest_run(trained_project, "mnist")
    run = Run.read(folder)
    assert (run.model, run.task, run.dataset, run.seed) == (
        "mnist",
        "image_classifier",
        "digits",
        1,
    )
    assert json.loads((folder / "index_to_name.json").read_text())["7"] == "7"
    transforms = find_model(trained_project, "mnist") / TRANSFORMS
    assert (folder / TRANSFORMS).read_bytes() == transforms.read_bytes()


def test_every_artifact_gives_the_trained_outputs(trained_project, transform):
    folder = latest_run(trained_project, "mnist")
    run = Run.read(folder)
    assert run.artifacts == ["model.pt", "model.pt2", "model.pth"]
    inputs = transform(digits().test.images[:64])
    load = partial(engines.load, device=torch.device("cpu"))
    with torch.inference_mode():
        scripted, exported, eager = (load(folder / file)(inputs) for file in run.artifacts)
    assert torch.equal(scripted, eager)
    assert torch.allclose(exported, eager, atol=1e-4)


def test_a_training_does_not_overwrite_a_run(trained_project):
    with pytest.raises(UsageError, match=r"is not empty and is not overwritten: .*--out"):
        train(
            trained_project,
            "mnist",
            Settings(dataset="digits"),
            latest_run(trained_project, "mnist"),
        )


def test_zero_epochs_are_refused(trained_project):
    with pytest.raises(UsageError, match="--epochs must be at least 1, got 0"):
        train(trained_project, "mnist", Settings(dataset="digits", epochs=0))


class Probabilities(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(3, 2), torch.nn.Softmax(1))


def small_gpt():
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1}
    return GPT2LMHeadModel(GPT2Config(**shape))


@dataclasses.dataclass(frozen=True)
class Classes(Rows):
    def __getitem__(self, index):
        return self.rows[index], int(index % 2)


NUMBERS = torch.linspace(-1, 1, 48)
TABLE = (NUMBERS.reshape(16, 3), NUMBERS[:16])
OBJECTIVES = {
    "logits": (Classification(), lambda: torch.nn.Linear(3, 2), Classes(*TABLE)),
    "probabilities": (Classification(outputs="probabilities"), Probabilities, Classes(*TABLE)),
    "numbers": (Regression(), lambda: torch.nn.Linear(3, 1), Rows(*TABLE)),
    "tokens": (NextToken(context=8), small_gpt, Blocks([n % 20 for n in range(80)], 8)),
}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_trains_in_mixed_precision(kind, tmp_path, monkeypatch):
    objective, build, examples = OBJECTIVES[kind]
    monkeypatch.setattr(loop, "_precision", lambda cuda: "bf16-mixed")  # as on a GPU
    recipe = Recipe(
        task="",
        build=build,
        objective=objective,
        datasets={},
        batch_size=8,
        learning_rate=0.01,
        formats=(),
    )
    splits = Splits(examples, examples, examples, labels=("a", "b"))
    learner = Learner(recipe, build(), splits.labels, 0)
    trained = fit(learner, splits, identity, tmp_path, epochs=1, device="cpu")
    assert all(np.isfinite(value) for value in trained.test.values())
    # The metrics of the loop, in 16 bits, differ from those in 32 only by rounding.
    again = measure(trained.module, recipe, examples, identity, splits.labels)
    assert trained.validation == pytest.approx(again, rel=1e-6)
    (row,) = json.loads((tmp_path / "history.json").read_text())
    assert row[f"val_{objective.main_metric}"] == pytest.approx(
        again[objective.main_metric], rel=0.1, abs=0.1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "nosuch"}, "no weights of nosuch"),
        ({"initial_weights": "nosuch"}, "no initial weights nosuch: expected a file"),
    ],
)
def test_a_training_that_cannot_start_leaves_no_run(tmp_path, options, message):
    with pytest.raises(VestalError, match=message):
        train(Project(tmp_path), "mnist", Settings(dataset="digits", **options))
    assert not list(tmp_path.iterdir())


UNSAVABLE = """
from dataclasses import replace

import torch


class Odd(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) if str(x.device) in vars() else super().forward(x)


recipe = replace(recipe, build=lambda: Odd(3, 1), formats=("torchscript",))
"""


def test_an_unsavable_module_is_refused_before_training(tmp_path):
    project = Project(tmp_path)
    folder = project.models / "odd"
    folder.mkdir(parents=True)
    for file in ("recipe.py", "model.py", "transforms.py"):
        text = (find_model(project, "regression") / file).read_text()
        (folder / file).write_text(text + (UNSAVABLE if file == "recipe.py" else ""))
    with pytest.raises(
        VestalError, match=r"Odd cannot be saved as torchscript .*another format in"
    ):
        train(project, "odd", Settings())
    assert not project.runs.exists()


def test_a_data_set_that_is_always_available_takes_no_data(tmp_path):
    project = Project(tmp_path)
    for model, dataset in (("mnist", "digits"), ("regression", None), ("simplenet", None)):
        with pytest.raises(UsageError, match="takes no --data: it is always available"):
            load_recipe(project, model).splits(dataset, tmp_path)
    accepting_data = DataSet(load=lambda data=None: data, epochs=1)
    own = dataclasses.replace(load_recipe(project, "mnist"), datasets={"own": accepting_data})
    with pytest.raises(AttributeError):  # `load` was called with the folder
        own.splits("own", tmp_path)
