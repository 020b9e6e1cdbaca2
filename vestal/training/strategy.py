"""A training from its options to its run, and the hooks in which strategies differ.

load the data set -> build the module -> check both -> fit -> save the run
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from vestal import runs
from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.recipes.objectives import Classification, NextToken
from vestal.recipes.recipe import LoadedDataSet, Recipe, Splits, load_dataset
from vestal.runs import Run
from vestal.training import language
from vestal.training.image_folders import ImageFiles
from vestal.training.loop import CHECKPOINTS, HISTORY, Learner, fit
from vestal.training.plots import draw_curve
from vestal.training.settings import Settings
from vestal.weights import saving
from vestal.weights.initial_weights import locate_weights, read_weights, transfer


@dataclass(frozen=True)
class Training:
    """A training that can start: its data, module and output formats are checked.

    Attributes:
        data: the data set as it was loaded.
        splits: the splits to train on; for a language model, blocks of tokens.
        example: a batch of two prepared inputs [2, ...], for tracing and pruning.
        tokenizer: the `tokenizers.Tokenizer` of a language model.
    """

    data: LoadedDataSet
    splits: Splits
    example: Tensor
    learner: Learner
    tokenizer: Any = None


class Strategy:
    """Ordinary training. `Distillation` and `Pruning` override the hooks.

    Hooks: `pin_weights`, `build_module`, `make_learner`, `formats` and `report`.
    """

    def __init__(self, project: Project, model: str, recipe: Recipe, settings: Settings) -> None:
        self.project, self.model, self.recipe = project, model, recipe
        self.settings = self.pin_weights(settings)

    def pin_weights(self, settings: Settings) -> Settings:
        """Replace names of weights by paths, so that a resumed training finds the same ones.

        Raises:
            UsageError, VestalError: the weights do not exist, or the recipe cannot use them.
        """
        source = settings.initial_weights
        if source is None:
            return settings
        if isinstance(self.recipe.objective, NextToken):
            raise UsageError(
                "--initial-weights is not available for language models: a training builds a new "
                "tokenizer, and the weights belong to the tokens of the old one"
            )
        path = locate_weights(self.project, self.recipe, source)
        return replace(settings, initial_weights=path)

    def build_module(self, data: LoadedDataSet, example: Tensor) -> nn.Module:
        """The module to train: initialized with the seed, then with the initial weights if any."""
        torch.manual_seed(self.settings.seed)
        module = self.recipe.make(data.splits.labels)
        source = self.settings.initial_weights or data.dataset.initial_weights
        if source:
            transfer(*read_weights(self.project, self.recipe, source), module)
        return module

    def make_learner(self, module: nn.Module, data: LoadedDataSet) -> Learner:
        return Learner(self.recipe, module, data.splits.labels, self.settings.seed)

    @property
    def formats(self) -> Sequence[str]:
        """Formats to save the trained module in."""
        return self.recipe.formats

    def report(self, training: Training, module: nn.Module, artifact: Path) -> dict[str, Any]:
        """The larger model and the trained one in figures; {} without a larger model."""
        return {}

    def prepare(self) -> Training:
        """Load the data set, build the module, and find every error that can be found early.

        Raises:
            UsageError, VestalError: unusable data, weights or module.
        """
        settings = self.settings
        data = load_dataset(
            *(self.project, self.model, self.recipe, settings.dataset),
            Path(settings.data) if settings.data else None,
        )
        _check_splits(self.recipe, data)
        lightning.seed_everything(settings.seed, workers=True, verbose=False)
        tokenizer, splits = None, data.splits
        if self.recipe.tokenizer:
            tokenizer, splits = language.tokenize(self.recipe, data.splits)
        count = len(splits.train)
        example = torch.stack([data.transform(splits.train[i % count][0]) for i in (0, 1)])
        module = self.build_module(data, example)
        _check_outputs(self.recipe, module, data, example)
        saving.check(module, self.formats, example)
        return Training(data, splits, example, self.make_learner(module, data), tokenizer)

    def run(self, place: AbstractContextManager[Path]) -> Run:
        """Prepare, train, and save the run.

        Args:
            place: provides the folder of the run; entered when the preparation has succeeded.

        Raises:
            UsageError, VestalError: unusable data, weights or module, or an interrupted training.
        """
        training = self.prepare()
        with place as folder:
            return self.fit_and_save(training, folder)

    def fit_and_save(self, training: Training, folder: Path) -> Run:
        recipe, data, settings = self.recipe, training.data, self.settings
        result = fit(
            training.learner,
            training.splits,
            data.transform,
            folder,
            epochs=settings.epochs or data.dataset.epochs,
            device=settings.device,
            augment=data.dataset.augment,
        )
        test = result.test
        if training.tokenizer is not None:
            test = language.measure_passages(result.module, training.tokenizer, data.splits.test)
            training.tokenizer.save(str(folder / "tokenizer.json"))
        files = saving.save_run(
            result.module,
            self.formats,
            folder,
            training.example,
            model_folder=data.folder,
            task=recipe.task,
            labels=data.splits.labels,
            transforms=data.dataset.transforms,
            sample=data.splits.test[0][0],
        )
        draw_curve(json.loads((folder / HISTORY).read_text("utf-8")), folder / runs.CURVE)
        run = Run(
            folder=folder,
            model=self.model,
            task=recipe.task,
            dataset=data.name,
            **vars(files),
            figure=recipe.objective.main_metric,
            seed=settings.seed,
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            validation=result.validation,
            test=test,
            test_size=len(data.splits.test),
            input_shape=list(training.example.shape[1:]),
            compression=self.report(training, result.module, folder / files.artifacts[0]),
            background=getattr(data.splits.train, "background", None),
        )
        run.write()
        shutil.rmtree(folder / CHECKPOINTS)
        return run


def _check_splits(recipe: Recipe, data: LoadedDataSet) -> None:
    """Raise VestalError for an empty training split, a single class, or files without an image."""
    splits = data.splits
    if not len(splits.train):
        raise VestalError(
            f"the data set {data.name} has no train/ folder, so there is nothing to train on; "
            "only vestal evaluate accepts a folder without train/"
        )
    labels = data.splits.labels or ()
    if isinstance(recipe.objective, Classification) and len(labels) == 1:
        raise VestalError(
            f"the data set {data.name} has one class ({labels[0]}): a classifier requires at "
            "least two"
        )
    for part in (splits.train, splits.validation, splits.test):
        if isinstance(part, ImageFiles):
            part.check()


def _check_outputs(recipe: Recipe, module: nn.Module, data: LoadedDataSet, example: Tensor) -> None:
    """Raise VestalError if the number of a classifier's outputs is not the number of labels."""
    labels = data.splits.labels
    if not isinstance(recipe.objective, Classification) or labels is None:
        return
    was_training = module.training
    with torch.inference_mode():
        outputs = module.eval()(example)
    module.train(was_training)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape[1] == len(labels):
        return
    names = ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
    raise VestalError(
        f"build() in {data.folder / 'model.py'} makes {outputs.shape[1]} outputs, but the data set "
        f"{data.name} has {len(labels)} classes ({names}): define build(classes: int) with one "
        "output for each class"
    )
