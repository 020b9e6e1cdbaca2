"""Data sets: scikit-learn's digits, torchvision's sets, and folders of images."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from idx_files import write_idx_set
from PIL import Image

from vestal.batch.inputs import find_inputs
from vestal.cli.inputs import expand
from vestal.errors import VestalError
from vestal.files.folders import files_in
from vestal.training.datasets import cifar10, digits, fashion_mnist, mnist
from vestal.training.image_folders import ImageFiles, image_folder


def test_digits_split_is_fixed_and_disjoint():
    first, again = digits(), digits()
    assert [len(part) for part in (first.train, first.validation, first.test)] == [1257, 180, 360]
    assert torch.equal(first.test.images, again.test.images)
    seen = {image.numpy().tobytes() for image, _ in (first.train[i] for i in range(1257))}
    assert not any(image.numpy().tobytes() in seen for image in first.test.images)


def test_digits_are_grayscale_images_of_28_by_28_with_all_classes():
    test = digits().test
    assert test.images.shape == (360, 1, 28, 28)
    assert test.images.dtype == torch.uint8
    assert int(test.images.max()) == 255
    assert torch.bincount(test.classes).min() >= 30


def test_the_error_about_a_failed_download_names_digits(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.chdir(tmp_path)
    # Nothing listens at this address, so the real download fails.
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(VestalError, match=r"cannot be downloaded to data .*--dataset digits"):
        mnist()


@pytest.mark.parametrize(("load", "name"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_idx_files_are_read_in_torchvisions_layout(tmp_path, load, name):
    pixels = write_idx_set(tmp_path / name / "raw")
    splits = load(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [90, 10, 20]
    image, label = splits.test[3]
    assert label == 3
    assert torch.equal(image[0], torch.from_numpy(pixels[3]))


def test_cifar_is_read_in_its_own_layout(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for name in files:
        batch = {
            "data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            "labels": [n % 10 for n in range(20)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {"label_names": list("abcdefghij")}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    # The small files have other checksums than the real ones.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    splits = cifar10(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [90, 10, 20]
    image, label = splits.test[7]
    assert (image.shape, image.dtype, label) == ((3, 32, 32), torch.uint8, 7)
    first = pickle.loads((folder / "test_batch").read_bytes())["data"][7]
    assert torch.equal(image, torch.from_numpy(first.reshape(3, 32, 32)))


@pytest.mark.parametrize("load", [mnist, fashion_mnist, cifar10])
def test_the_error_about_a_missing_data_set_names_digits(tmp_path, load):
    with pytest.raises(VestalError, match=r"is not in .*--data DIR.*--dataset digits"):
        load(tmp_path)


def test_digits_in_color_repeat_the_gray_channel():
    grey, colour = digits(size=32).test, digits(size=32, channels=3).test
    assert colour.images.shape == (360, 3, 32, 32)
    assert torch.equal(colour.images[:, 2], grey.images[:, 0])


def write_images(folder, classes, count, size=(12, 8)):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            shade = (40 * number + index, 10, 200)
            Image.new("RGB", size, shade).save(folder / name / f"{index}.png")


def test_an_image_folder_is_split_with_every_class_in_proportion(tmp_path):
    write_images(tmp_path, ("cat", "dog"), 20)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    splits = image_folder(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [28, 4, 8]
    assert splits.labels == ["cat", "dog"]
    assert [splits.test[n][1] for n in range(8)].count(1) == 4
    image, label = splits.train[0]
    assert image.shape == (3, 8, 12)
    assert int(image[0, 0, 0]) // 40 == label


def test_an_image_folder_with_splits_keeps_them(tmp_path):
    write_images(tmp_path / "train", ("cat", "dog"), 20)
    write_images(tmp_path / "val", ("cat", "dog"), 3)
    splits = image_folder(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [36, 4, 6]
    write_images(tmp_path / "test", ("cat", "dog"), 5)
    splits = image_folder(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [40, 6, 10]


def test_splits_with_different_classes_are_refused(tmp_path):
    write_images(tmp_path / "train", ("cat", "dog"), 20)
    write_images(tmp_path / "val", ("cat", "cow"), 3)
    with pytest.raises(VestalError, match=r"val has the classes \['cat', 'cow'\], but train/ has"):
        image_folder(tmp_path)


def test_the_error_about_a_folder_that_cannot_be_split_explains_why(tmp_path):
    with pytest.raises(VestalError, match="requires --data DIR"):
        image_folder(None)
    with pytest.raises(VestalError, match="is not an image folder"):
        image_folder(tmp_path)
    write_images(tmp_path, ("cat", "dog"), 1)
    with pytest.raises(VestalError, match=r"too few examples to split .*at least 10"):
        image_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    write_images(tmp_path, ("bus", "train"), 20)
    assert image_folder(tmp_path).labels == ["bus", "train"]


def test_a_folder_besides_the_splits_is_refused(tmp_path):
    write_images(tmp_path / "train", ("cat", "dog"), 20)
    write_images(tmp_path / "valid", ("cat", "dog"), 3)
    (tmp_path / ".cache").mkdir()
    with pytest.raises(
        VestalError,
        match=r"has the folders valid besides train: the splits must",
    ):
        image_folder(tmp_path)


def litter(folder):
    """Hidden folders of desktops and tools, with images."""
    for name in (".ipynb_checkpoints", "__MACOSX", "__pycache__", ".git", "cat/.ipynb_checkpoints"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8)).save(folder / name / "0-checkpoint.png")
    for name in ("cat/._0.png", "cat/Thumbs.db", "dog/desktop.ini", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7")


def test_hidden_folders_and_files_are_ignored(tmp_path):
    write_images(tmp_path, ("cat", "dog"), 20)
    litter(tmp_path)
    splits = image_folder(tmp_path)
    assert splits.labels == ["cat", "dog"]
    parts = (splits.train, splits.validation, splits.test)
    assert sorted(file for part in parts for file in part.files) == sorted(
        tmp_path / name / f"{n}.png" for name in ("cat", "dog") for n in range(20)
    )
    assert files_in(tmp_path) == sorted(file for part in parts for file in part.files)
    assert [item.file for item in find_inputs([str(tmp_path)]).items] == list(
        map(str, files_in(tmp_path))
    )
    assert expand([tmp_path]) == files_in(tmp_path)
    assert [item.file for item in find_inputs([f"{tmp_path}/**/*.png"]).items] == list(
        map(str, files_in(tmp_path))
    )


def test_links_to_folders_are_followed_once(tmp_path):
    write_images(tmp_path / "real", ("cat",), 2)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "real" / "cat")
    (tmp_path / "real" / "cat" / "again").symlink_to(tmp_path / "photos")
    assert [file.name for file in files_in(tmp_path / "photos")] == ["0.png", "1.png"]


def test_hidden_folders_are_not_splits(tmp_path):
    write_images(tmp_path / "train", ("cat", "dog"), 20)
    write_images(tmp_path / "val", ("cat", "dog"), 3)
    for name in (".", "train", "val"):
        litter(tmp_path / name) if name != "." else (tmp_path / "__MACOSX" / "train").mkdir(
            parents=True
        )
    splits = image_folder(tmp_path)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [36, 4, 6]


@pytest.mark.parametrize("folders", [("test",), ("val",), ("test", "val")])
def test_a_folder_without_train_can_only_be_evaluated(tmp_path, folders):
    for number, name in enumerate(folders):
        write_images(tmp_path / name, ("cat", "dog"), 3 + number)
    splits = image_folder(tmp_path)
    assert splits.labels == ["cat", "dog"]
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [0, 0, 6]


def test_a_class_may_be_called_test(tmp_path):
    write_images(tmp_path, ("exam", "test"), 20)
    assert image_folder(tmp_path).labels == ["exam", "test"]


def test_a_class_without_images_is_named(tmp_path):
    write_images(tmp_path, ("cat", "dog"), 20)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VestalError, match=r"is not an image folder: empty has no images"):
        image_folder(tmp_path)
    with pytest.raises(VestalError, match=r"nowhere is not an image folder: No such file"):
        image_folder(tmp_path / "nowhere")


def test_the_check_names_files_that_are_not_images(tmp_path):
    write_images(tmp_path, ("cat", "dog"), 20)
    for number in range(5):
        (tmp_path / "cat" / f"{number}.png").write_bytes(b"<html>" * number)
    (tmp_path / "dog" / "7.png").write_bytes((tmp_path / "dog" / "7.png").read_bytes()[:20])
    files = [file for name in ("cat", "dog") for file in sorted((tmp_path / name).iterdir())]
    with pytest.raises(VestalError) as caught:
        ImageFiles(files, [0] * 40, "RGB").check()
    assert str(caught.value).startswith("6 of 40 files are not readable images: ")
    assert "cat/0.png" in str(caught.value)
    assert "and 3 more; remove or replace them" in str(caught.value)
    images = [file for file in files if file.stat().st_size > 50]
    ImageFiles(images, [0] * len(images), "RGB").check()
    assert len(images) == 34


def test_a_batch_is_decoded_like_single_images(tmp_path):
    write_images(tmp_path, ("cat", "dog"), 10)
    files = image_folder(tmp_path).train
    assert [label for _, label in files.__getitems__([3, 0])] == [files[3][1], files[0][1]]
    assert torch.equal(files.__getitems__([3, 0])[0][0], files[3][0])
