"""Image data sets as splits of decoded inputs. The user names one; nothing falls back to another.

Here stand those with a usual layout, torchvision's and a folder a class, and the digits that every
image model can be tried on; what is one model's own idea of data stands in that model's folder.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST
from torchvision.datasets.folder import IMG_EXTENSIONS

from vestal.errors import VestalError
from vestal.files.folders import files_in, folders_in
from vestal.recipes.recipe import Splits
from vestal.training.splitting import divide, split
from vestal_handlers.cores import cores
from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import FORMATS, read_image
from vestal_handlers.images.flattening import Mode, colour_of

SPLIT_FOLDERS = ("train", "val", "test")
NAMED = 3  # files in a message
THREADS = max(1, min(8, int(cores())))


@dataclass(frozen=True)
class Images:
    """Decoded images in memory: uint8 [N, C, H, W], and their classes, int64 [N]."""

    images: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.classes[index])

    def pick(self, indices: np.ndarray) -> Images:
        chosen = torch.from_numpy(indices)
        return Images(self.images[chosen], self.classes[chosen])


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes, decoded when asked for, as a handler decodes them.

    `background`: what transparent ones are shown on, as in `handler:` of model-config.yaml.
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
        """A batch of a training, decoded by threads; one that cannot be is a VestalError."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._for_training, indices))

    def _is_image(self, file: Path) -> bool:
        try:
            with Image.open(file, formats=FORMATS):  # the header alone
                return True
        except Exception:  # nearly anything, also of metadata that a handler does without
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
                f"{self.files[index]} cannot be trained on ({reason}): remove or replace it"
            ) from None

    def pick(self, indices: np.ndarray) -> ImageFiles:
        files, classes = [self.files[i] for i in indices], [self.classes[i] for i in indices]
        return replace(self, files=files, classes=classes)

    def check(self) -> None:
        """Read the header of every file, so that a training does not end at one that is no image.

        Raises:
            VestalError: files that are not images; the first ones are named.
        """
        with ThreadPoolExecutor(THREADS) as pool:
            good = list(pool.map(self._is_image, self.files))
        wrong = [file for file, is_image in zip(self.files, good, strict=True) if not is_image]
        if wrong:
            more = f" and {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
            raise VestalError(
                f"{len(wrong):,} of {len(self.files):,} files are not images that can be read: "
                f"{', '.join(map(str, wrong[:NAMED]))}{more}; remove or replace them"
            )


def digits(*, size: int = 28, channels: int = 1) -> Splits:
    """scikit-learn's bundled digits: 1,797 scans of 8 x 8, scaled to size x size.

    70 % train, 10 % validation, 20 % test, each with every digit in proportion.
    """
    from sklearn.datasets import load_digits  # seconds, for who only packs

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = interpolate(small, size=(size, size), mode="bicubic", align_corners=False)
    grey = large.round().clamp(0, 255).to(torch.uint8)
    images = grey.expand(-1, channels, -1, -1).contiguous()
    everything = Images(images, torch.from_numpy(bunch.target).long())
    return split(everything, bunch.target, tuple("0123456789"))


def image_folder(
    data: Path | None = None, *, mode: Mode = "RGB", background: str = "white"
) -> Splits:
    """A folder of images with one folder a class, in torchvision's ImageFolder layout.

    Where it holds `train/` of such folders, and `val/` (and `test/`), those are the splits; without
    `test/` the test split is `val/`, and a tenth of `train/` validates. Without `train/` there is
    nothing to train on, and `test/` (or else `val/`) can be evaluated. Where it holds none of the
    three, everything is split 70 : 10 : 20.

    Args:
        background: what transparent images are shown on; `Recipe.splits` gives the handler's.

    Raises:
        VestalError: no folder, no classes in it, splits of other names, or too few images.
    """
    if data is None:
        raise VestalError("an image folder must be named: --data DIR (one folder a class in it)")
    read = partial(_read_folder, mode=mode, background=background)
    found = _splits_in(data)
    if not found:
        everything, labels = read(data)
        return split(everything, everything.classes, labels, data)
    if "train" not in found:
        held, labels = read(data / found[-1])
        nothing = held.pick(np.arange(0))
        return Splits(nothing, nothing, held, labels)
    full, labels = read(data / "train")
    held_out = [read(data / part, labels=labels)[0] for part in found[1:]]
    if not held_out:
        return split(full, full.classes, labels, data)
    if len(held_out) == 2:
        return Splits(full, held_out[0], held_out[1], labels)
    train, validation = divide(np.arange(len(full)), 0.1, full.classes, data)
    return Splits(full.pick(train), full.pick(validation), held_out[0], labels)


def _splits_in(data: Path) -> list[str]:
    """Which splits it holds, in order; of a class named `train` the images are right in it.

    Raises:
        VestalError: it cannot be read, or holds folders beside its splits.
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
            f"{data} holds {', '.join(others)} beside {splits[0]}: name the splits "
            f"{', '.join(SPLIT_FOLDERS)}, with one folder a class in each"
        )
    return splits


def _read_folder(
    folder: Path, *, mode: Mode, background: str, labels: Sequence[str] | None = None
) -> tuple[ImageFiles, list[str]]:
    """The images of a folder by class; `labels`: what its classes must be."""
    try:
        classes = {child.name: _images_in(child) for child in folders_in(folder)}
    except OSError as error:
        raise VestalError(f"{folder} is not an image folder: {error.strerror}") from None
    empty = [name for name, files in classes.items() if not files]
    if empty or not classes:
        wrong = f"{empty[0]} holds no image" if empty else "it holds no folders"
        raise VestalError(
            f"{folder} is not an image folder: {wrong}; expected one folder for each class, with "
            "images in it"
        )
    found = list(classes)
    if labels is not None and found != list(labels):
        raise VestalError(f"{folder} has the classes {found}, train/ has {list(labels)}")
    pairs = [(file, index) for index, name in enumerate(found) for file in classes[name]]
    files, indices = [file for file, _ in pairs], [index for _, index in pairs]
    return ImageFiles(files, indices, mode, background), found


def _images_in(folder: Path) -> list[Path]:
    return [file for file in files_in(folder) if file.suffix.lower() in IMG_EXTENSIONS]


def _torchvision(kind: Any, name: str, inside: str, data: Path | None = None) -> Splits:
    """One of torchvision's sets in its own layout; downloaded to `data/` when not given.

    Of the training images 90 % train and 10 % validate; the test set is the set's own.

    Raises:
        VestalError: it is not in `data`, or cannot be downloaded.
    """
    root = data or Path("data")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints its attempts
            parts = [kind(root, train=train, download=data is None) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        found = "is not in" if data else "cannot be downloaded to"
        raise VestalError(
            f"the data set {name} {found} {root} ({reason}): give its folder with --data DIR "
            f"(it holds {inside}), or train on what needs no download: --dataset digits"
        ) from None
    full, test = (_images_of(part) for part in parts)
    train, validation = divide(np.arange(len(full)), 0.1, full.classes.numpy(), name)
    return Splits(full.pick(train), full.pick(validation), test)


def _images_of(part: Any) -> Images:
    pixels = torch.as_tensor(part.data)
    # MNIST keeps [N, H, W], CIFAR-10 [N, H, W, 3].
    images = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(images, torch.as_tensor(part.targets).long())


Loader = Callable[[Path | None], Splits]
mnist: Loader = partial(_torchvision, MNIST, "mnist", "MNIST/raw")
fashion_mnist: Loader = partial(_torchvision, FashionMNIST, "fashion_mnist", "FashionMNIST/raw")
cifar10: Loader = partial(_torchvision, CIFAR10, "cifar10", "cifar-10-batches-py")
