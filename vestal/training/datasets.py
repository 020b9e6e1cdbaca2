"""Data sets as splits of decoded inputs. The user names one; nothing falls back to another."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.datasets import MNIST

from vestal.errors import VestalError
from vestal.training.recipe import Splits

SPLIT_SEED = 0  # of the data, whatever the training's seed: two trainings share their test set


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


def digits(data: Path | None = None) -> Splits:
    """scikit-learn's bundled digits: 1,797 scans of 8 x 8, scaled to grey 28 x 28.

    70 % train, 10 % validation, 20 % test, each with every digit in proportion. `data` is not
    needed: the set comes with scikit-learn.
    """
    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = interpolate(small, size=(28, 28), mode="bicubic", align_corners=False)
    everything = Images(
        large.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(bunch.target).long()
    )
    indices = np.arange(len(everything))
    rest, test = train_test_split(
        indices, test_size=0.2, random_state=SPLIT_SEED, stratify=bunch.target
    )
    train, validation = train_test_split(
        rest, test_size=0.125, random_state=SPLIT_SEED, stratify=bunch.target[rest]
    )
    return Splits(everything.pick(train), everything.pick(validation), everything.pick(test))


def mnist(data: Path | None = None) -> Splits:
    """MNIST in torchvision's layout (`<data>/MNIST/raw`); downloaded to `data/` when not given.

    The 60,000 training images give 90 % train and 10 % validation; the test set is MNIST's own.

    Raises:
        VestalError: it is not in `data`, or cannot be downloaded.
    """
    root = data or Path("data")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints its attempts
            parts = [MNIST(root, train=train, download=data is None) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        found = "is not in" if data else "cannot be downloaded to"
        raise VestalError(
            f"the data set mnist {found} {root} ({reason}): give its folder with --data DIR "
            "(it holds MNIST/raw), or train on what needs no download: --dataset digits"
        ) from None
    full, test = (Images(part.data.unsqueeze(1), part.targets.long()) for part in parts)
    train, validation = train_test_split(
        np.arange(len(full)), test_size=0.1, random_state=SPLIT_SEED, stratify=full.classes.numpy()
    )
    return Splits(full.pick(train), full.pick(validation), test)
