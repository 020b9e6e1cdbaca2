"""What a model folder's `recipe.py` says, and how it is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from vestal.errors import UsageError
from vestal.models import find_model, handler_options
from vestal.project import Project
from vestal.recipes.objectives import Classification, Objective
from vestal_handlers.model_files import load_module


class Examples(Sized, Protocol):
    """A map-style data set of `(input, target)`.

    The input is decoded: an image uint8 [C, H, W], a text, a row float32 [features]. The target
    is a class index, a number, or None where the input says it all (language).
    """

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Splits:
    """A data set, split once and for all; `test` is never seen in training.

    `labels`: of the classes, in order; None: the recipe's.
    """

    train: Examples
    validation: Examples
    test: Examples
    labels: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set that a recipe can train on.

    Attributes:
        load: gives the splits. One with a parameter `data` is called with the folder or file that
            holds it (None: its own place); one without comes from where it always does. One with
            a parameter `background` is called with the recipe's.
        epochs: how long to train on it.
        transforms: the module of the model folder whose `transform` prepares its inputs, in
            training and, as the archive's transforms.py, in serving.
        augment: changes one decoded training input at random; never part of serving.
        start: the weights (a name in `Recipe.weights`) that training begins with; None: fresh ones.
    """

    load: Callable[..., Splits]
    epochs: int
    transforms: str = "transforms"
    augment: Callable[[Any], Any] | None = None
    start: str | None = None


@dataclass(frozen=True)
class Weights:
    """A module filled from elsewhere, such as a model hub; `source` says where from.

    `labels`: of its classes, where the recipe has none. `transforms`: as in `DataSet`.
    `tokenizer`: of a language model (`tokenizers.Tokenizer`).
    """

    module: nn.Module
    source: str
    labels: Sequence[str] | None = None
    transforms: str = "transforms"
    tokenizer: Any = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained and saved.

    Attributes:
        task: the module of `vestal_handlers.tasks` that serves it, such as `image_classifier`.
        build: makes the untrained module; may take `classes`, the number of labels.
        objective: the loss and the figures.
        datasets: by name.
        batch_size: examples a step.
        learning_rate: AdamW's highest, under a one-cycle schedule.
        warmup: the share of the steps in which the rate rises to it.
        gradient_clip: the longest that a step's gradient may be (L2 norm); None: as it comes.
        saves: formats of `vestal.weights.saving`; the first is what `vestal pack` takes.
        labels: of the classes that the model was made for, in order; a data set may have others.
        weight_decay, betas: AdamW's; the one-cycle schedule moves the first beta, too.
        patience: epochs without a lower validation loss until training stops; None: never early.
        weights: ready weights by name, for `vestal pack --weights NAME`.
        tokenizer: trains a language model's tokenizer on the training texts.
        background: what transparent images are shown on; `load_recipe` takes it from `handler:` of
            the model's model-config.yaml, so training and serving see the same pixels.
    """

    task: str
    build: Callable[..., nn.Module]
    objective: Objective
    datasets: Mapping[str, DataSet]
    batch_size: int
    learning_rate: float
    saves: Sequence[str]
    warmup: float = 0.3
    gradient_clip: float | None = None
    labels: Sequence[str] | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    patience: int | None = None
    weights: Mapping[str, Callable[[], Weights]] = field(default_factory=dict)
    tokenizer: Callable[[Sequence[str]], Any] | None = None
    background: str = "white"

    def dataset(self, name: str | None) -> tuple[str, DataSet]:
        """A data set by its name; None is the only one there is.

        Raises:
            UsageError: no such data set, or several and none was named.
        """
        if not self.datasets:
            raise UsageError(
                "this model has no data set to train or evaluate with: add one to `datasets` in "
                "its recipe.py"
            )
        known = ", ".join(self.datasets)
        if name is None and len(self.datasets) == 1:
            return next(iter(self.datasets.items()))
        if name is None:
            raise UsageError(f"several data sets: choose one with --dataset ({known})")
        if name not in self.datasets:
            raise UsageError(f"no data set {name!r} in this recipe: it has {known}")
        return name, self.datasets[name]

    def splits(self, name: str | None, data: Path | None = None) -> Splits:
        """Loads a data set.

        Raises:
            UsageError: this recipe knows no such data set, or it takes no `data`.
            VestalError: it cannot be had; the message names the one that can.
        """
        name, chosen = self.dataset(name)
        takes = inspect.signature(chosen.load).parameters
        if data is not None and "data" not in takes:
            raise UsageError(f"{name} is always at hand and takes no --data: leave {data} out")
        given = {"data": data, "background": self.background}
        splits = chosen.load(**{name: value for name, value in given.items() if name in takes})
        return replace(splits, labels=splits.labels or self.labels)

    def make(self, labels: Sequence[str] | None) -> nn.Module:
        """The untrained module, for these labels."""
        takes_classes = "classes" in inspect.signature(self.build).parameters
        return self.build(classes=len(labels or ())) if takes_classes else self.build()


def load_recipe(project: Project, name: str) -> Recipe:
    """Loads `recipe` of `models/<name>/recipe.py`.

    A model without that file is only served: its recipe has no data sets.

    Raises:
        UsageError: no such model, or its recipe.py does not load or defines no `recipe`.
    """
    folder = find_model(project, name)
    module = "recipe" if (folder / "recipe.py").is_file() else "model"
    try:
        if module == "model":
            return _served_only(folder)
        recipe = getattr(load_module(folder, module), "recipe", None)
    except (ImportError, SyntaxError, TypeError, AttributeError, NameError) as error:
        raise UsageError(
            f"{folder / module}.py does not load: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(recipe, Recipe):
        raise UsageError(
            f"{folder / 'recipe.py'} must define recipe = vestal.recipes.recipe.Recipe(...)"
        )
    return replace(recipe, background=_background(folder) or recipe.background)


def _served_only(folder: Path) -> Recipe:
    """The recipe of a model that has a handler and no recipe.py; model.py is optional."""

    def build() -> nn.Module:
        raise UsageError(
            f"{folder} has no model.py to load weights by name into: add one with build(), or use "
            "a TorchScript, .pt2 or .onnx file"
        )

    own = (folder / "model.py").is_file()
    return Recipe(
        task="custom",
        build=load_module(folder, "model").build if own else build,
        objective=Classification(figure=""),  # never used: there is nothing to train on
        datasets={},
        batch_size=1,
        learning_rate=0.0,
        saves=("state_dict",),
    )


def _background(folder: Path) -> str | None:
    """`handler.background` of a model's model-config.yaml; None: not stated."""
    stated = handler_options(folder).get("background")
    if stated is None:
        return None
    from vestal_handlers.images.flattening import colour_of  # Pillow, for image models only

    try:
        colour_of(str(stated))
    except ValueError as error:
        raise UsageError(f"{folder / 'model-config.yaml'}: {error}") from None
    return str(stated)


def load_transform(project: Project, name: str, transforms: str) -> Callable[[Any], Tensor]:
    """Load `transform` from a module of the model's folder: a decoded input to the model's input.

    A model without such a module takes its inputs as they are.

    Raises:
        UsageError: the module does not load, or defines no `transform`.
    """
    folder = find_model(project, name)
    if not (folder / f"{transforms}.py").is_file():
        return as_it_is
    try:
        transform: Callable[[Any], Tensor] = load_module(folder, transforms).transform
    except (ImportError, SyntaxError, TypeError, AttributeError, NameError) as error:
        raise UsageError(
            f"{folder / f'{transforms}.py'} does not load: {type(error).__name__}: {error}. It "
            "must define transform, a callable from a decoded input to the model's input tensor"
        ) from error
    return transform


def as_it_is(value: Any) -> Tensor:
    """The transform of a model that has none."""
    tensor: Tensor = value
    return tensor
