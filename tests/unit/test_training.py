from __future__ import annotations

import dataclasses
import json
import struct
from functools import partial

import numpy as np
import pytest
import torch

from vestal.errors import UsageError, VestalError
from vestal.models import find_model
from vestal.project import Project
from vestal.runs import TRANSFORMS, Run, latest_run
from vestal.training.compressing import Settings
from vestal.training.datasets import Images, digits, mnist
from vestal.training.loop import Learner, fit, measure
from vestal.training.recipe import Splits, load_recipe, load_transform
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


def write_idx(folder, name, array):
    folder.mkdir(parents=True, exist_ok=True)
    head = struct.pack("!HBB", 0, 8, array.ndim) + struct.pack(f"!{array.ndim}I", *array.shape)
    (folder / name).write_bytes(head + array.tobytes())


def test_digits_split_is_fixed_and_disjoint():
    first, again = digits(), digits()
    assert [len(part) for part in (first.train, first.validation, first.test)] == [1257, 180, 360]
    assert torch.equal(first.test.images, again.test.images)
    seen = {image.numpy().tobytes() for image, _ in (first.train[i] for i in range(1257))}
    assert not any(image.numpy().tobytes() in seen for image in first.test.images)


def test_digits_are_grey_28_by_28_bytes_with_every_class():
    test = digits().test
    assert test.images.shape == (360, 1, 28, 28)
    assert test.images.dtype == torch.uint8
    assert int(test.images.max()) == 255
    assert torch.bincount(test.classes).min() >= 30


def test_mnist_is_read_in_torchvisions_layout(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    pixels = np.random.default_rng(0).integers(0, 256, (100, 28, 28), dtype=np.uint8)
    classes = np.arange(100, dtype=np.uint8) % 10
    write_idx(raw, "train-images-idx3-ubyte", pixels)
    write_idx(raw, "train-labels-idx1-ubyte", classes)
    write_idx(raw, "t10k-images-idx3-ubyte", pixels[:20])
    write_idx(raw, "t10k-labels-idx1-ubyte", classes[:20])
    splits = mnist(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [90, 10, 20]
    image, label = splits.test[3]
    assert label == 3
    assert torch.equal(image[0], torch.from_numpy(pixels[3]))


def test_a_data_folder_without_mnist_is_an_error_that_names_digits(tmp_path):
    with pytest.raises(VestalError, match=r"mnist is not in .*--data DIR.*--dataset digits"):
        mnist(tmp_path)


def test_mnist_that_cannot_be_downloaded_is_an_error_that_names_digits(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.chdir(tmp_path)
    # A mirror on this machine where nothing listens: the real download, really refused.
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(VestalError, match=r"cannot be downloaded to data .*--dataset digits"):
        mnist()


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
