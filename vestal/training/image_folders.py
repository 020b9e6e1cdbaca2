"""Folders of image files with one subfolder for each class, as splits."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from vestal.errors import VestalError
from vestal.files.folders import files_in, folders_in
from vestal.recipes.recipe import Splits
from vestal.training.datasets import divide, split
from vestal_handlers.cores import cores
from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import FORMATS, read_image
from vestal_handlers.images.flattening import Mode, colour_of

SPLIT_FOLDERS = ("train", "val", "test")
SHOWN = 3  # files in a message
THREADS = max(1, min(8, int(cores())))


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes; a handler's decoder decodes them on access.

    `background`: color behind transparent images, as in `handler:` of model-config.yaml.
    """

    files: Sequence[Path]
    classes: Sequence[int]
    mode: Mode
    background: str = "white"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        data, over = self.files[index].read_bytes(), colour_of(self.background)
        return read_image(data, self.mode, background=over), self.classes[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Decode a batch for training in threads; an unreadable file is a VestalError."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._for_training, indices))

    def _is_image(self, file: Path) -> bool:
        try:
            with Image.open(file, formats=FORMATS):  # reads only the header
                return True
        except Exception:  # Pillow also fails for metadata that a handler ignores
            try:
                read_image(file.read_bytes(), self.mode)
            except (InputError, OSError):
                return False
            return True

    def _for_training(self, index: int) -> tuple[Tensor, int]:
        try:
            return self[index]
        except (InputError, OSError) as error:
            reason = error.message if isinstance(error, InputError) else error.strerror
            raise VestalError(
                f"{self.files[index]} is not a readable image ({reason}): remove or replace it"
            ) from None

    def pick(self, indices: np.ndarray) -> ImageFiles:
        files, classes = [self.files[i] for i in indices], [self.classes[i] for i in indices]
        return replace(self, files=files, classes=classes)

    def check(self) -> None:
        """Read the header of every file, to find files that would end a training.

        Raises:
            VestalError: unreadable images; the message names the first ones.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            readable = list(pool.map(self._is_image, self.files))
        wrong = [file for file, is_image in zip(self.files, readable, strict=True) if not is_image]
        if wrong:
            more = f" and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
            raise VestalError(
                f"{len(wrong):,} of {len(self.files):,} files are not readable images: "
                f"{', '.join(map(str, wrong[:SHOWN]))}{more}; remove or replace them"
            )


def image_folder(
    data: Path | None = None, *, mode: Mode = "RGB", background: str = "white"
) -> Splits:
    """A folder of images in torchvision's ImageFolder layout: one subfolder for each class.

    Folders `train/`, `val/` and `test/` with such subfolders are the splits. Without `test/`, the
    test split is `val/`, and a tenth of `train/` is the validation split. Without `train/`, the
    data can only be evaluated, on `test/` or else `val/`. Without any of the three, all images are
    split 70 : 10 : 20.

    Args:
        background: color behind transparent images; `Recipe.splits` passes the handler's.

    Raises:
        VestalError: no such folder, no classes in it, unknown splits, or too few images.
    """
    if data is None:
        raise VestalError(
            "this data set requires --data DIR, a folder with one subfolder for each class"
        )
    read = partial(_read_folder, mode=mode, background=background)
    found = _splits_in(data)
    if not found:
        images, labels = read(data)
        return split(images, images.classes, labels, data)
    if "train" not in found:
        test, labels = read(data / found[-1])
        empty = test.pick(np.arange(0))
        return Splits(empty, empty, test, labels)
    full, labels = read(data / "train")
    held_out = [read(data / part, labels=labels)[0] for part in found[1:]]
    if not held_out:
        return split(full, full.classes, labels, data)
    if len(held_out) == 2:
        return Splits(full, held_out[0], held_out[1], labels)
    train, validation = divide(np.arange(len(full)), 0.1, full.classes, data)
    return Splits(full.pick(train), full.pick(validation), held_out[0], labels)


def _splits_in(data: Path) -> list[str]:
    """The splits in a folder, in order. A class named `train` has images, not subfolders.

    Raises:
        VestalError: the folder cannot be read, or has other folders besides its splits.
    """
    try:
        folders = folders_in(data)
        splits = [
            name for name in SPLIT_FOLDERS if (data / name) in folders and folders_in(data / name)
        ]
    except OSError as error:
        raise VestalError(f"{data} is not an image folder: {error.strerror}") from None
    others = [folder.name for folder in folders if folder.name not in SPLIT_FOLDERS]
    if splits and others:
        raise VestalError(
            f"{data} has the folders {', '.join(others)} besides {splits[0]}: the splits must be "
            f"named {', '.join(SPLIT_FOLDERS)}, with one subfolder for each class"
        )
    return splits


def _read_folder(
    folder: Path, *, mode: Mode, background: str, labels: Sequence[str] | None = None
) -> tuple[ImageFiles, list[str]]:
    """The images of a folder and its classes; `labels`: the expected classes."""
    try:
        classes = {child.name: _images_in(child) for child in folders_in(folder)}
    except OSError as error:
        raise VestalError(f"{folder} is not an image folder: {error.strerror}") from None
    empty = [name for name, files in classes.items() if not files]
    if empty or not classes:
        wrong = f"{empty[0]} has no images" if empty else "it has no subfolders"
        raise VestalError(
            f"{folder} is not an image folder: {wrong}; expected one subfolder of images for each "
            "class"
        )
    found = list(classes)
    if labels is not None and found != list(labels):
        raise VestalError(f"{folder} has the classes {found}, but train/ has {list(labels)}")
    pairs = [(file, index) for index, name in enumerate(found) for file in classes[name]]
    files, indices = [file for file, _ in pairs], [index for _, index in pairs]
    return ImageFiles(files, indices, mode, background), found


def _images_in(folder: Path) -> list[Path]:
    return [file for file in files_in(folder) if file.suffix.lower() in IMG_EXTENSIONS]
