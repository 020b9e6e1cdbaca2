"""The recipe of a model: its data sets, objective and training settings, and how it is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from vestal.errors import UsageError
from vestal.model_folders import find_model, handler_options
from vestal.project import Project
from vestal.recipes.objectives import Classification, Objective
from vestal_handlers.model_files import load_module

Transform = Callable[[Any], Tensor]


class Examples(Sized, Protocol):
    """A map-style data set of `(input, target)`.

    The input is decoded: an image uint8 [C, H, W], a text, or a row float32 [features]. The target
    is a class index, a number, or None for a language model.
    """

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class Splits:
    """A data set in its fixed splits; a training never sees `test`.

    `labels`: names of the classes, in order; None: as in the recipe.
    """

    train: Examples
    validation: Examples
    test: Examples
    labels: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set that a recipe can train on.

    Attributes:
        load: returns the splits. A parameter `data` receives the folder or file of the data set
            (None: the default location); a data set without it is always available. A parameter
            `background` receives the recipe's.
        epochs: default number of epochs.
        transforms: module of the model folder whose `transform` prepares the inputs, in training
            and, as the archive's transforms.py, in serving.
        augment: changes a decoded training input at random; not used in serving.
        initial_weights: a name in `Recipe.weights`; None: random weights.
    """

    load: Callable[..., Splits]
    epochs: int
    transforms: str = "transforms"
    augment: Callable[[Any], Any] | None = None
    initial_weights: str | None = None


@dataclass(frozen=True)
class Weights:
    """A module with weights from another source, such as a model hub.

    Attributes:
        source: the source, for people.
        labels: names of its classes, if the recipe has none.
        transforms: as in `DataSet`.
        tokenizer: of a language model (`tokenizers.Tokenizer`).
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
        task: module of `vestal_handlers.tasks` that serves the model, such as `image_classifier`.
        build: builds the untrained module; a parameter `classes` receives the number of labels.
        objective: loss and metrics.
        datasets: data sets by name.
        batch_size: examples per step.
        learning_rate: highest rate of AdamW, with a one-cycle schedule.
        warmup: share of the steps in which the rate rises to it.
        gradient_clip: upper limit of the gradient's L2 norm; None: no limit.
        formats: formats to save in (`vestal.weights.saving`); `vestal pack` uses the first.
        labels: names of the classes, in order; those of a data set come first.
        weight_decay, betas: as in AdamW; the one-cycle schedule changes the first beta, too.
        patience: epochs without a lower validation loss after which training stops; None: never.
        weights: functions that fetch weights, by name, for `vestal pack --weights NAME`.
        tokenizer: trains a language model's tokenizer on the training texts.
        background: color behind transparent images. `load_recipe` reads it from `handler:` in
            model-config.yaml, so that training and serving see the same pixels.
    """

    task: str
    build: Callable[..., nn.Module]
    objective: Objective
    datasets: Mapping[str, DataSet]
    batch_size: int
    learning_rate: float
    formats: Sequence[str]
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
        """A data set by name, and the name; None: the only data set.

        Raises:
            UsageError: an unknown data set, or no name and several data sets.
        """
        if not self.datasets:
            raise UsageError(
                "this model has no data set to train or evaluate with: add one to `datasets` in "
                "its recipe.py"
            )
        names = ", ".join(self.datasets)
        if name is None and len(self.datasets) == 1:
            return next(iter(self.datasets.items()))
        if name is None:
            raise UsageError(f"the recipe has several data sets: pass one with --dataset ({names})")
        if name not in self.datasets:
            raise UsageError(f"unknown data set {name!r}; this recipe has {names}")
        return name, self.datasets[name]

    def splits(self, name: str | None, data: Path | None = None) -> Splits:
        """Load a data set.

        Raises:
            UsageError: an unknown data set, or one that takes no `data`.
            VestalError: the data set is not available; the message names one that is.
        """
        name, dataset = self.dataset(name)
        parameters = inspect.signature(dataset.load).parameters
        if data is not None and "data" not in parameters:
            raise UsageError(f"the data set {name} takes no --data: it is always available")
        arguments = {"data": data, "background": self.background}
        splits = dataset.load(**{key: arguments[key] for key in arguments if key in parameters})
        return replace(splits, labels=splits.labels or self.labels)

    def make(self, labels: Sequence[str] | None) -> nn.Module:
        """Build the untrained module for these labels."""
        takes_classes = "classes" in inspect.signature(self.build).parameters
        return self.build(classes=len(labels or ())) if takes_classes else self.build()


@dataclass(frozen=True)
class LoadedDataSet:
    """A data set of a recipe, loaded; `folder` is the model's."""

    name: str
    folder: Path
    dataset: DataSet
    splits: Splits
    transform: Transform


def load_dataset(
    project: Project, model: str, recipe: Recipe, name: str | None, data: Path | None = None
) -> LoadedDataSet:
    """Load a data set of a model's recipe, and the transform of its inputs.

    Raises:
        UsageError, VestalError: as in `Recipe.splits` and `load_transform`.
    """
    name, dataset = recipe.dataset(name)
    splits = recipe.splits(name, data)
    transform = load_transform(project, model, dataset.transforms)
    return LoadedDataSet(name, find_model(project, model), dataset, splits, transform)


def load_recipe(project: Project, name: str) -> Recipe:
    """Load `recipe` from `models/<name>/recipe.py`.

    A model without this file is only served; its recipe has no data sets.

    Raises:
        UsageError: an unknown model, or a recipe.py that does not load or define `recipe`.
    """
    folder = find_model(project, name)
    module = "recipe" if (folder / "recipe.py").is_file() else "model"
    try:
        if module == "model":
            return _serving_recipe(folder)
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


def _serving_recipe(folder: Path) -> Recipe:
    """The recipe of a model that has a handler but no recipe.py; model.py is optional."""

    def build() -> nn.Module:
        raise UsageError(
            f"{folder} has no model.py, which a state_dict is loaded into: add one with build(), "
            "or use a TorchScript, .pt2 or .onnx file"
        )

    own = (folder / "model.py").is_file()
    return Recipe(
        task="custom",
        build=load_module(folder, "model").build if own else build,
        objective=Classification(main_metric=""),  # never used, as there is no data set
        datasets={},
        batch_size=1,
        learning_rate=0.0,
        formats=("state_dict",),
    )


def _background(folder: Path) -> str | None:
    """`handler.background` in model-config.yaml, if present."""
    value = handler_options(folder).get("background")
    if value is None:
        return None
    from vestal_handlers.images.flattening import colour_of  # imports Pillow

    try:
        colour_of(str(value))
    except ValueError as error:
        raise UsageError(f"{folder / 'model-config.yaml'}: {error}") from None
    return str(value)


def load_transform(project: Project, name: str, transforms: str) -> Transform:
    """Load `transform` from a module of the model folder, or `identity` without such a module.

    It takes a decoded input, or a batch of images of one size, and returns the module's input.

    Raises:
        UsageError: the module does not load or define `transform`.
    """
    folder = find_model(project, name)
    if not (folder / f"{transforms}.py").is_file():
        return identity
    try:
        transform: Transform = load_module(folder, transforms).transform
    except (ImportError, SyntaxError, TypeError, AttributeError, NameError) as error:
        raise UsageError(
            f"{folder / f'{transforms}.py'} does not load: {type(error).__name__}: {error}. It "
            "must define transform, a callable from a decoded input to the model's input tensor"
        ) from error
    return transform


def identity(value: Any) -> Tensor:
    """The transform of a model that has none."""
    tensor: Tensor = value
    return tensor
