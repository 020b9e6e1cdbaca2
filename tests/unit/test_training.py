from __future__ import annotations

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch

from vestal.errors import UsageError, VestalError
from vestal.models import find_model
from vestal.project import Project
from vestal.recipes.objectives import Classification, NextToken, Regression
from vestal.recipes.recipe import DataSet, Recipe, Splits, as_it_is, load_recipe, load_transform
from vestal.runs import TRANSFORMS, Run, latest_run
from vestal.training import loop
from vestal.training.datasets import ImageFiles, Images, digits
from vestal.training.language import Blocks
from vestal.training.loop import Learner, fit, measure
from vestal.training.settings import Settings
from vestal.training.tables import Rows
from vestal.training.train import train
from vestal_handlers import engines


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(Project.here(), "mnist")


@pytest.fixture(scope="module")
def transform():
    return load_transform(Project.here(), "mnist", "transforms")


@pytest.fixture(scope="module")
def few():
    """A few digits: enough to see a loop work."""
    full = digits()
    take = np.arange(160)
    parts = (part.pick(take) for part in (full.train, full.validation, full.test))
    return Splits(*parts, labels=full.labels)


def test_an_unknown_data_set_is_named_with_those_there_are(recipe):
    with pytest.raises(UsageError, match=r"no data set 'cifar' in this recipe: it has digits, mni"):
        recipe.splits("cifar")


def test_the_transform_takes_a_batch_and_one_alike(transform):
    images = digits().test.images[:8]
    one_by_one = torch.stack([transform(image) for image in images])
    assert torch.equal(transform(images), one_by_one)


def learner_of(recipe, few, seed=0):
    torch.manual_seed(seed)
    return Learner(recipe, recipe.make(few.labels), few.labels, seed)


def test_the_same_seed_gives_the_same_weights(recipe, few, transform, tmp_path):
    states = [
        fit(
            learner_of(recipe, few, seed), few, transform, tmp_path / str(n), epochs=1, device="cpu"
        ).module.state_dict()
        for n, seed in enumerate((3, 3, 4))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["fc2.weight"], states[2]["fc2.weight"])


def test_the_best_epoch_is_kept(recipe, few, transform, tmp_path):
    # A learning rate that wrecks the model later on: the best epoch is not the last.
    wild = dataclasses.replace(recipe, learning_rate=1.0)
    trained = fit(learner_of(wild, few), few, transform, tmp_path, epochs=3, device="cpu")
    measured = measure(trained.module, wild, few.validation, transform, few.labels)
    assert trained.validation == pytest.approx(measured, abs=1e-6)
    history = json.loads((tmp_path / "history.json").read_text())
    losses = [row["val_loss"] for row in history]
    assert trained.best_epoch == losses.index(min(losses)) + 1
    assert not trained.module.training


def test_training_stops_early_where_the_validation_loss_does_not_fall(
    recipe, few, transform, tmp_path
):
    wild = dataclasses.replace(recipe, learning_rate=1.0, patience=2)
    trained = fit(learner_of(wild, few), few, transform, tmp_path, epochs=30, device="cpu")
    assert trained.epochs == trained.best_epoch + 2 < 30


def test_accuracy_counts_over_all_examples(recipe, transform):
    class Always3(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    images = torch.zeros(70, 1, 28, 28, dtype=torch.uint8)
    examples = Images(images, torch.arange(70) % 10)
    found = measure(Always3(), recipe, examples, transform, recipe.labels)
    assert found == {"accuracy": pytest.approx(0.1)}


def test_an_unknown_device_is_refused_with_those_there_are(recipe, few, transform, tmp_path):
    with pytest.raises(UsageError, match=r"no device 'tpu' here: there is cpu"):
        fit(learner_of(recipe, few), few, transform, tmp_path, epochs=1, device="tpu")


def test_a_run_holds_what_packing_needs(trained_project):
    folder = latest_run(trained_project, "mnist")
    run = Run.read(folder)
    assert (run.model, run.task, run.dataset, run.seed) == (
        "mnist",
        "image_classifier",
        "digits",
        1,
    )
    assert json.loads((folder / "index_to_name.json").read_text())["7"] == "7"
    recipes_own = find_model(trained_project, "mnist") / TRANSFORMS
    assert (folder / TRANSFORMS).read_bytes() == recipes_own.read_bytes()


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


def test_nothing_is_trained_over_an_earlier_run(trained_project):
    with pytest.raises(UsageError, match=r"is not empty: give --out a new folder"):
        train(
            trained_project,
            "mnist",
            Settings(dataset="digits"),
            latest_run(trained_project, "mnist"),
        )


def test_no_epochs_is_refused(trained_project):
    with pytest.raises(UsageError, match="--epochs must be at least 1, not 0"):
        train(trained_project, "mnist", Settings(dataset="digits", epochs=0))


class Probabilities(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(3, 2), torch.nn.Softmax(1))


def little_gpt():
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
    "tokens": (NextToken(context=8), little_gpt, Blocks([n % 20 for n in range(80)], 8)),
}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_trains_in_mixed_precision(kind, tmp_path, monkeypatch):
    objective, build, examples = OBJECTIVES[kind]
    monkeypatch.setattr(loop, "_precision", lambda accelerator: "bf16-mixed")  # as on a GPU
    recipe = Recipe(
        task="",
        build=build,
        objective=objective,
        datasets={},
        batch_size=8,
        learning_rate=0.01,
        saves=(),
    )
    splits = Splits(examples, examples, examples, labels=("a", "b"))
    learner = Learner(recipe, build(), splits.labels, 0)
    trained = fit(learner, splits, as_it_is, tmp_path, epochs=1, device="cpu")
    assert all(np.isfinite(value) for value in trained.test.values())
    # The figures of the loop, in 16 bits, are those of the module in 32, but for the rounding.
    again = measure(trained.module, recipe, examples, as_it_is, splits.labels)
    assert trained.validation == pytest.approx(again, rel=1e-6)
    (row,) = json.loads((tmp_path / "history.json").read_text())
    assert row[f"val_{objective.figure}"] == pytest.approx(
        again[objective.figure], rel=0.1, abs=0.1
    )


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"teacher": "nosuch"}, "no weights of nosuch"),
        ({"device": "tpu"}, "no device 'tpu' here"),
        ({"start": "nosuch"}, "no weights nosuch to start from: name a file"),
    ],
)
def test_what_cannot_begin_leaves_no_run(tmp_path, chosen, says):
    with pytest.raises(VestalError, match=says):
        train(Project(tmp_path), "mnist", Settings(dataset="digits", **chosen))
    assert not list(tmp_path.iterdir())


UNSAVABLE = """
from dataclasses import replace

import torch


class Odd(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) if str(x.device) in vars() else super().forward(x)


recipe = replace(recipe, build=lambda: Odd(3, 1), saves=("torchscript",))
"""


def test_what_cannot_be_saved_is_said_before_it_is_trained(tmp_path):
    project = Project(tmp_path)
    folder = project.models / "odd"
    folder.mkdir(parents=True)
    for file in ("recipe.py", "model.py", "transforms.py"):
        text = (find_model(project, "regression") / file).read_text()
        (folder / file).write_text(text + (UNSAVABLE if file == "recipe.py" else ""))
    with pytest.raises(VestalError, match=r"Odd cannot be saved as torchscript .*saves= of recipe"):
        train(project, "odd", Settings())
    assert not project.runs.exists()


def test_a_corrupt_image_is_named_when_it_is_trained_on(recipe, transform, tmp_path):
    from PIL import Image

    for number in range(4):
        Image.new("L", (28, 28), 60 * number).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    files = ImageFiles([tmp_path / f"{n}.png" for n in range(4)], [0, 1, 0, 1], "L")
    splits = Splits(files, files, files, labels=("a", "b"))
    with pytest.raises(VestalError, match=r"2\.png cannot be trained on \(.*remove or replace it"):
        fit(learner_of(recipe, splits), splits, transform, tmp_path / "run", epochs=1, device="cpu")


FOLDER = """

from vestal.training.datasets import image_folder

recipe = replace(
    recipe, datasets={"folder": DataSet(load=partial(image_folder, mode="L"), epochs=1)}
)
"""


@pytest.fixture
def folder_project(tmp_path):
    """mnist, whose build() has ten outputs, on folders of images."""
    project = Project(tmp_path)
    folder = project.models / "ten"
    folder.mkdir(parents=True)
    for file in ("recipe.py", "model.py", "transforms.py"):
        text = (find_model(project, "mnist") / file).read_text()
        imports = "from dataclasses import replace\nfrom functools import partial\n"
        (folder / file).write_text(imports + text + FOLDER if file == "recipe.py" else text)
    return project


def write_photos(folder, classes, count):
    from PIL import Image

    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            shade = 60 * number + index
            Image.new("L", (28, 28), shade).save(folder / name / f"{index}.png")


def test_a_folder_of_other_classes_than_build_makes_is_one_sentence(folder_project, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, ("cat", "dog"), 10)
    with pytest.raises(
        VestalError,
        match=r"build\(\) in .*ten/model\.py makes 10 outputs, but the data set folder has 2 "
        r"classes \(cat, dog\): write build\(classes: int\)",
    ):
        train(folder_project, "ten", Settings(data=str(photos)))
    assert not folder_project.runs.exists()


def test_what_is_wrong_with_a_folder_is_named_before_it_is_trained_on(folder_project, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, map(str, range(10)), 10)
    (photos / "3" / "7.png").write_bytes(b"no image")
    with pytest.raises(VestalError, match=r"1 of 70 files .*3/7\.png; remove"):
        train(folder_project, "ten", Settings(data=str(photos)))
    write_photos(tmp_path / "one", ("cat",), 10)
    with pytest.raises(VestalError, match=r"folder has one class \(cat\): a classifier needs two"):
        train(folder_project, "ten", Settings(data=str(tmp_path / "one")))
    write_photos(tmp_path / "test_only" / "test", ("cat", "dog"), 10)
    with pytest.raises(VestalError, match=r"folder has no train/, so there is nothing to train on"):
        train(folder_project, "ten", Settings(data=str(tmp_path / "test_only")))
    assert not folder_project.runs.exists()


def test_a_data_set_that_is_at_hand_takes_no_data(tmp_path):
    project = Project(tmp_path)
    for model, dataset in (("mnist", "digits"), ("regression", None), ("simplenet", None)):
        with pytest.raises(UsageError, match="is always at hand and takes no --data: leave"):
            load_recipe(project, model).splits(dataset, tmp_path)
    taking = DataSet(load=lambda data=None: data, epochs=1)
    own = dataclasses.replace(load_recipe(project, "mnist"), datasets={"own": taking})
    with pytest.raises(AttributeError):  # it was asked, with the folder
        own.splits("own", tmp_path)
