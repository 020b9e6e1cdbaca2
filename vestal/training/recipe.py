"""What a model folder's `recipe.py` says, and how a model folder is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from vestal.errors import UsageError
from vestal.models import find_model
from vestal.project import Project
from vestal_handlers.model_files import load_module


class Examples(Sized, Protocol):
    """A map-style data set of `(input, target)`: for images (uint8 [C, H, W], class index)."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


@dataclass(frozen=True)
class Splits:
    """A data set, split once and for all; `test` is never seen in training."""

    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    Attributes:
        task: the module of `vestal_handlers` that serves it, `image_classifier`.
        build: makes the untrained module.
        transform: a decoded input to the module's input; also takes a batch of equal inputs.
        labels: of the classes, in order.
        datasets: by name; each is called with the folder that holds it (None: the default one).
        epochs: by data set.
        augment: changes one decoded training input at random; never part of serving.
    """

    task: str
    build: Callable[[], nn.Module]
    transform: Callable[[Any], Tensor]
    labels: Sequence[str]
    datasets: Mapping[str, Callable[[Path | None], Splits]]
    epochs: Mapping[str, int]
    batch_size: int
    learning_rate: float
    augment: Callable[[Any], Any] | None = None

    def splits(self, dataset: str, data: Path | None = None) -> Splits:
        """Loads a data set by name.

        Raises:
            UsageError: this recipe knows no such data set.
            VestalError: it cannot be had; the message names the one that can.
        """
        if dataset not in self.datasets:
            raise UsageError(
                f"no data set {dataset!r} in this recipe: it has {', '.join(self.datasets)}"
            )
        return self.datasets[dataset](data)


def load_recipe(project: Project, name: str) -> Recipe:
    """Loads `recipe` of `models/<name>/recipe.py`.

    Raises:
        UsageError: no such model, or its recipe.py defines no `recipe`.
    """
    folder = find_model(project, name)
    recipe = getattr(load_module(folder, "recipe"), "recipe", None)
    if not isinstance(recipe, Recipe):
        raise UsageError(
            f"{folder / 'recipe.py'} must define recipe = vestal.training.recipe.Recipe(...)"
        )
    return recipe
