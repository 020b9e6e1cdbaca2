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
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, MNIST, FashionMNIST, ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from vestal.errors import VestalError
from vestal.training.recipe import Splits
from vestal.training.splitting import divide, split
from vestal_handlers.cores import cores
from vestal_handlers.decoding import Mode, read_image
from vestal_handlers.errors import InputError
from vestal_handlers.flattening import colour_of

SPLIT_FOLDERS = ("train", "val", "test")
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

    def _for_training(self, index: int) -> tuple[Tensor, int]:
        try:
            return self[index]
        except (InputError, OSError) as error:
            reason = error.message if isinstance(error, InputError) else error.strerror
            raise VestalError(
                f"{self.files[index]} cannot be trained on ({reason}): take it out, or mend it"
            ) from None

    def pick(self, indices: np.ndarray) -> ImageFiles:
        files, classes = zip(*((self.files[i], self.classes[i]) for i in indices), strict=True)
        return replace(self, files=files, classes=classes)


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
    `test/` the test split is `val/`, and a tenth of `train/` validates. Else everything is split
    70 : 10 : 20.

    Args:
        background: what transparent images are shown on; `Recipe.splits` gives the handler's.

    Raises:
        VestalError: no folder, no classes in it, splits of other names, or too few images.
    """
    if data is None:
        raise VestalError("an image folder must be named: --data DIR (one folder a class in it)")
    read = partial(_read_folder, mode=mode, background=background)
    if not _has_splits(data):
        everything, labels = read(data)
        return split(everything, everything.classes, labels, data)
    full, labels = read(data / "train")
    held = [
        read(data / part, labels=labels)[0] for part in SPLIT_FOLDERS[1:] if (data / part).is_dir()
    ]
    if not held:
        return split(full, full.classes, labels, data)
    if len(held) == 2:
        return Splits(full, held[0], held[1], labels)
    train, validation = divide(np.arange(len(full)), 0.1, full.classes, data)
    return Splits(full.pick(train), full.pick(validation), held[0], labels)


def _has_splits(data: Path) -> bool:
    """Whether its folders are splits: of a class named `train` the images stand right in it.

    Raises:
        VestalError: beside `train/` stands what would be left out without a word.
    """
    if not any(child.is_dir() for child in (data / "train").glob("[!.]*")):
        return False
    found = sorted(child.name for child in data.glob("[!.]*") if child.is_dir())
    others = [name for name in found if name not in SPLIT_FOLDERS]
    if others:
        raise VestalError(
            f"{data} holds {', '.join(others)} beside train: name the splits "
            f"{', '.join(SPLIT_FOLDERS)} (test may be left out), with one folder a class in each"
        )
    return True


def _read_folder(
    folder: Path, *, mode: Mode, background: str, labels: Sequence[str] | None = None
) -> tuple[ImageFiles, list[str]]:
    try:
        found = ImageFolder(str(folder), is_valid_file=_is_image)
    except (FileNotFoundError, OSError) as error:
        raise VestalError(
            f"{folder} is no image folder ({str(error).splitlines()[0]}): it must hold one folder "
            "a class, with the images in them"
        ) from None
    if labels is not None and found.classes != list(labels):
        raise VestalError(f"{folder} has the classes {found.classes}, train/ has {list(labels)}")
    files = [Path(file) for file, _ in found.samples]
    classes = [index for _, index in found.samples]
    return ImageFiles(files, classes, mode, background), list(found.classes)


def _is_image(file: str) -> bool:
    return file.lower().endswith(IMG_EXTENSIONS)


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
