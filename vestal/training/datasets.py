"""Data sets in fixed splits: scikit-learn's digits and torchvision's image sets."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vestal.errors import VestalError
from vestal.recipes.recipe import Examples, Splits

SPLIT_SEED = 0  # of the data: all trainings share a test set


class Pickable(Examples, Protocol):
    """Examples that can be selected by index."""

    def pick(self, indices: np.ndarray) -> Self: ...


def split(
    source: Pickable,
    classes: Sequence[int] | np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    place: Path | str = "the data set",
) -> Splits:
    """Split into 70 % training, 10 % validation and 20 % test.

    Args:
        classes: class of each example; every split then has all classes in proportion.
        place: name of the data for messages.

    Raises:
        VestalError: too few examples.
    """
    rest, test = divide(np.arange(len(source)), 0.2, classes, place)
    train, validation = divide(rest, 0.125, classes, place)
    return Splits(source.pick(train), source.pick(validation), source.pick(test), labels)


ENOUGH = 10  # examples, of each class if there are classes, that can always be split


def divide(
    indices: np.ndarray,
    share: float,
    classes: Sequence[int] | np.ndarray | None = None,
    place: Path | str = "the data set",
) -> tuple[np.ndarray, np.ndarray]:
    """Divide indices at random: the larger part, and this share of them.

    Args:
        classes: class of every example; both parts then have all classes in proportion.

    Raises:
        VestalError: too few examples of a class for both parts.
    """
    # Imported late: it takes seconds, and `vestal pack` does not need it.
    from sklearn.model_selection import train_test_split

    stratify = None if classes is None else np.asarray(classes)[indices]
    try:
        large, small = train_test_split(
            indices, test_size=share, random_state=SPLIT_SEED, stratify=stratify
        )
    except ValueError:  # whose message lists every class or index
        counts_text = f"{len(indices):,} in total"
        if stratify is not None and len(stratify):
            names, counts = np.unique(stratify, return_counts=True)
            rare = names[counts.argmin()]
            counts_text += f", {counts.min():,} of class {rare} (counted from 0)"
        raise VestalError(
            f"{place} has too few examples to split into training, validation and test "
            f"({counts_text}); at least {ENOUGH} "
            f"{'of each class ' if classes is not None else ''}are enough"
        ) from None
    return large, small


@dataclass(frozen=True)
class Images:
    """Decoded images uint8 [N, C, H, W] in memory, and their classes int64 [N]."""

    images: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.classes[index])

    def pick(self, indices: np.ndarray) -> Images:
        rows = torch.from_numpy(indices)
        return Images(self.images[rows], self.classes[rows])


def digits(*, size: int = 28, channels: int = 1) -> Splits:
    """scikit-learn's bundled digits: 1,797 scans of 8 x 8, scaled to size x size.

    70 % training, 10 % validation, 20 % test, each with all digits in proportion.
    """
    from sklearn.datasets import load_digits  # imported late: it takes seconds

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = interpolate(small, size=(size, size), mode="bicubic", align_corners=False)
    grey = large.round().clamp(0, 255).to(torch.uint8)
    images = grey.expand(-1, channels, -1, -1).contiguous()
    examples = Images(images, torch.from_numpy(bunch.target).long())
    return split(examples, bunch.target, tuple("0123456789"))


def _torchvision(kind: str, name: str, layout: str, data: Path | None = None) -> Splits:
    """A data set of torchvision in its own layout; without `data`, downloaded to `data/`.

    10 % of the training images are the validation split.

    Args:
        kind: name of the class in torchvision.datasets.

    Raises:
        VestalError: the data set is not in `data`, or cannot be downloaded.
    """
    from torchvision import datasets  # imported late: tables and texts do not need it

    load = getattr(datasets, kind)
    root = data or Path("data")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints its attempts
            parts = [load(root, train=train, download=data is None) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        found = "is not in" if data else "cannot be downloaded to"
        raise VestalError(
            f"the data set {name} {found} {root} ({reason}): pass its folder with --data DIR "
            f"(it contains {layout}), or use one that needs no download: --dataset digits"
        ) from None
    full, test = (_images_of(part) for part in parts)
    train, validation = divide(np.arange(len(full)), 0.1, full.classes.numpy(), name)
    return Splits(full.pick(train), full.pick(validation), test)


def _images_of(part: Any) -> Images:
    pixels = torch.as_tensor(part.data)
    # MNIST is [N, H, W], CIFAR-10 [N, H, W, 3].
    images = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Images(images, torch.as_tensor(part.targets).long())


Loader = Callable[[Path | None], Splits]
mnist: Loader = partial(_torchvision, "MNIST", "mnist", "MNIST/raw")
fashion_mnist: Loader = partial(_torchvision, "FashionMNIST", "fashion_mnist", "FashionMNIST/raw")
cifar10: Loader = partial(_torchvision, "CIFAR10", "cifar10", "cifar-10-batches-py")
