"""Splits a data set once and for all: the same way whatever a training's seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from vestal.errors import VestalError
from vestal.recipes.recipe import Examples, Splits

SPLIT_SEED = 0  # of the data: two trainings share their test set


class Pickable(Examples, Protocol):
    """Examples of which some can be picked, by their indices."""

    def pick(self, indices: np.ndarray) -> Self: ...


def split(
    source: Pickable,
    classes: Sequence[int] | np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    place: Path | str = "the data set",
) -> Splits:
    """70 % train, 10 % validation, 20 % test; with `classes` every class in proportion in each.

    Raises:
        VestalError: too few examples; `place` is named.
    """
    rest, test = divide(np.arange(len(source)), 0.2, classes, place)
    train, validation = divide(rest, 0.125, classes, place)
    return Splits(source.pick(train), source.pick(validation), source.pick(test), labels)


ENOUGH = 10
"""Examples, of each class where there are classes, that can always be split."""


def divide(
    indices: np.ndarray,
    share: float,
    classes: Sequence[int] | np.ndarray | None = None,
    place: Path | str = "the data set",
) -> tuple[np.ndarray, np.ndarray]:
    """The most of the indices and, by chance, that share of them; `classes`: of all examples.

    Raises:
        VestalError: too few of a class to be in both.
    """
    # scikit-learn takes seconds to import: who packs a recipe's model does not wait for it.
    from sklearn.model_selection import train_test_split

    stratify = None if classes is None else np.asarray(classes)[indices]
    try:
        most, few = train_test_split(
            indices, test_size=share, random_state=SPLIT_SEED, stratify=stratify
        )
    except ValueError:  # its text lists every class, or every index
        found = f"{len(indices):,} in all"
        if stratify is not None and len(stratify):
            names, counts = np.unique(stratify, return_counts=True)
            rare = names[counts.argmin()]
            found += f", {counts.min():,} of class {rare} (counted from 0)"
        raise VestalError(
            f"{place} has too few examples to split into training, validation and test ({found}); "
            f"at least {ENOUGH} {'of each class ' if classes is not None else ''}are enough"
        ) from None
    return most, few
