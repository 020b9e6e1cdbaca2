"""Smaller models with the same task: what of a training is distillation or pruning."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestal.errors import UsageError
from vestal.models import find_model, handler_options
from vestal.project import Project
from vestal.recipes.objectives import NextToken
from vestal.recipes.recipe import DataSet, Recipe, as_it_is, load_recipe
from vestal.runs import TRANSFORMS, Run, find_run
from vestal.training import initial_weights
from vestal.training.comparison import Compression
from vestal.training.distilling import gives_logits, in_mode_of, logits_of
from vestal.training.loading import Transform
from vestal.training.pruning import prune
from vestal.training.settings import Settings
from vestal.trust import trusted
from vestal_handlers import engines
from vestal_handlers.engines import eager
from vestal_handlers.model_files import load_module

# What carries its own architecture: a pruned model's weights do not fit build() any more.
OWN_ARCHITECTURE = ("torchscript", "exported", "onnx")


def check(recipe: Recipe, settings: Settings) -> None:
    """Raises UsageError where a compression cannot be, before anything is loaded."""
    teacher, prune, start = settings.teacher, settings.prune, settings.start
    if teacher and prune is not None:
        raise UsageError("--teacher and --prune are two ways to a smaller model: take one")
    if prune is not None and not 0 < prune < 1:
        raise UsageError(f"--prune takes a share between 0 and 1, such as 0.5, not {prune}")
    if prune is not None and isinstance(recipe.objective, NextToken):
        raise UsageError("--prune is for models of convolutions and linear layers")
    if teacher and not gives_logits(recipe.objective):
        raise UsageError("--teacher is for classifiers whose module gives logits")
    if start and isinstance(recipe.objective, NextToken):
        raise UsageError(
            "--start is not for language models: their tokenizer is trained anew, so that other "
            "weights would speak of other tokens"
        )


def resolved(project: Project, name: str, recipe: Recipe, settings: Settings) -> Settings:
    """With folders and files in place of names: the newest run is another one when it resumes.

    Raises:
        VestalError: there is no such run.
    """
    teacher, start = settings.teacher, settings.start
    if teacher:
        teacher = str(find_run(project, teacher).folder.resolve())
    if settings.prune is not None:
        start = str(find_run(project, start or name).folder.resolve())
    elif start:
        start = initial_weights.resolve(project, recipe, start)
    return replace(settings, teacher=teacher, start=start)


def begin(
    project: Project,
    recipe: Recipe,
    chosen: DataSet,
    labels: Sequence[str] | None,
    transform: Transform,
    example: Tensor,
    settings: Settings,
) -> tuple[nn.Module, Compression | None]:
    """The module that is trained, and what it makes smaller, if anything.

    Args:
        settings: as `resolved` gives them.

    Raises:
        UsageError, VestalError: no such run or weights, or they do not fit.
    """
    if settings.prune is not None:
        assert settings.start is not None
        run = find_run(project, settings.start)
        return _pruned(run, recipe, labels, transform, example, settings.prune)
    module = initial_weights.begin(project, recipe, chosen, labels, settings)
    if settings.teacher:
        return module, taught_by(project, find_run(project, settings.teacher), labels)
    return module, None


def taught_by(project: Project, run: Run, labels: Sequence[str] | None) -> Compression:
    """A run that teaches a smaller model of the same labels.

    Raises:
        UsageError: it knows other labels, or its artifact is no torch module.
        VestalError: it is from outside the project, with other code.
    """
    if run.labels != list(labels or ()):
        raise UsageError(
            f"the teacher {run.folder} knows other labels ({run.labels}) than this recipe "
            f"({list(labels or ())})"
        )
    recipe = load_recipe(project, run.model)
    prepare: Any = as_it_is
    with tempfile.TemporaryDirectory(prefix="vestal-teacher-") as scratch:
        folder = trusted(project, run, recipe.task, Path(scratch) / "run").folder
        output = handler_options(find_model(project, run.model)).get("output")
        engine = engines.load(folder / run.artifacts[0], torch.device("cpu"), output=output)
        if (folder / TRANSFORMS).is_file():
            prepare = load_module(folder, TRANSFORMS.removesuffix(".py")).transform
    if engine.module is None:
        raise UsageError(f"the teacher {run.folder} must be a torch module, not {run.artifacts[0]}")
    return Compression(
        kind="distillation",
        run=run,
        large=engine.module,
        transform=lambda given: prepare(in_mode_of(prepare, given)),
        teacher=logits_of(engine, recipe.objective),
    )


def _pruned(
    run: Run,
    recipe: Recipe,
    labels: Sequence[str] | None,
    transform: Transform,
    example: Tensor,
    fraction: float,
) -> tuple[nn.Module, Compression]:
    weights = initial_weights.weights_of(run)
    module = recipe.make(labels)
    eager.fill(module, eager.read(weights), weights.name)
    small = copy.deepcopy(module)
    prune(small, example, fraction)
    return small, Compression(
        kind="pruning",
        run=run,
        large=module.eval(),
        transform=transform,
        formats=[name for name in recipe.saves if name in OWN_ARCHITECTURE] or ["exported"],
        facts={"fraction": fraction},
    )
