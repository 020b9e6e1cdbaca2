from __future__ import annotations

import dataclasses
import json
import struct
import warnings

import numpy as np
import pytest
import torch

from vestal.errors import UsageError, VestalError
from vestal.models import find_model
from vestal.project import Project
from vestal.runs import STATE_DICT, TORCHSCRIPT, TRANSFORMS, Run, latest_run
from vestal.training.datasets import Images, digits, mnist
from vestal.training.loop import accuracy, fit
from vestal.training.recipe import Splits, load_recipe
from vestal.training.train import train


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(Project.here(), "mnist")


@pytest.fixture(scope="module")
def few():
    """A few digits: enough to see a loop work."""
    full = digits()
    take = np.arange(160)
    return Splits(full.train.pick(take), full.validation.pick(take), full.test.pick(take))


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


def test_the_transform_takes_a_batch_and_one_alike(recipe):
    images = digits().test.images[:8]
    one_by_one = torch.stack([recipe.transform(image) for image in images])
    assert torch.equal(recipe.transform(images), one_by_one)


def test_the_same_seed_gives_the_same_weights(recipe, few):
    states = [
        fit(recipe, few, epochs=1, device="cpu", seed=seed).module.state_dict()
        for seed in (3, 3, 4)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["fc2.weight"], states[2]["fc2.weight"])


def test_the_best_epoch_is_kept(recipe, few):
    # A learning rate that wrecks the model later on: the best epoch is not the last.
    wild = dataclasses.replace(recipe, learning_rate=1.0, augment=None)
    trained = fit(wild, few, epochs=3, device="cpu", seed=0)
    measured = accuracy(trained.module, wild, few.validation)
    assert trained.val_accuracy == pytest.approx(measured, abs=1e-6)
    assert 1 <= trained.best_epoch <= 3
    assert not trained.module.training


def test_accuracy_counts_over_all_examples(recipe):
    class Always3(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    images = torch.zeros(70, 1, 28, 28, dtype=torch.uint8)
    examples = Images(images, torch.arange(70) % 10)
    assert accuracy(Always3(), recipe, examples) == 0.1


def test_an_unknown_device_is_refused_with_those_there_are(recipe, few):
    with pytest.raises(UsageError, match=r"no device 'tpu' here: there is cpu"):
        fit(recipe, few, epochs=1, device="tpu", seed=0)


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


def test_torchscript_and_state_dict_give_the_same_outputs_exactly(trained_project, recipe):
    folder = latest_run(trained_project, "mnist")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")
        scripted = torch.jit.load(folder / TORCHSCRIPT)
    eager = recipe.build().eval()
    eager.load_state_dict(torch.load(folder / STATE_DICT, weights_only=True))
    inputs = recipe.transform(digits().test.images[:64])
    with torch.inference_mode():
        assert torch.equal(scripted(inputs), eager(inputs))


def test_nothing_is_trained_over_an_earlier_run(trained_project):
    with pytest.raises(UsageError, match=r"is not empty: give --out a new folder"):
        train(
            trained_project,
            "mnist",
            dataset="digits",
            out=latest_run(trained_project, "mnist"),
        )


def test_no_epochs_is_refused(trained_project):
    with pytest.raises(UsageError, match="--epochs must be at least 1, not 0"):
        train(trained_project, "mnist", dataset="digits", epochs=0)
