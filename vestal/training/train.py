"""Trains a model by its recipe and saves what `vestal.runs` describes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from vestal import runs
from vestal.errors import UsageError, VestalError
from vestal.files.disk_errors import describe_disk_error
from vestal.files.storage import write_text
from vestal.models import find_model
from vestal.project import Project
from vestal.recipes.recipe import DataSet, Recipe, Splits, load_recipe, load_transform
from vestal.runs import Run
from vestal.training import compressing, language
from vestal.training.checking import check_outputs, check_splits
from vestal.training.comparison import Compression
from vestal.training.distilling import Distiller
from vestal.training.loading import Transform, fetch
from vestal.training.loop import (
    CHECKPOINTS,
    HISTORY,
    LAST,
    Learner,
    Trained,
    accelerator_of,
    fit,
)
from vestal.training.plots import draw_curve
from vestal.training.settings import Settings
from vestal.weights import saving
from vestal.weights.run_files import versions, write_sample, write_support


def train(project: Project, name: str, settings: Settings, out: Path | None = None) -> Run:
    """Trains a model by its recipe and saves the run.

    Args:
        out: a folder to make; by default the next number under `runs/<name>/`. Where nothing was
            trained, none is left.

    Raises:
        UsageError: no such model, data set or device, or `out` holds something already.
        VestalError: the data set cannot be had, the module cannot be saved as the recipe says, or
            the training was stopped.
    """
    recipe = load_recipe(project, name)
    dataset, _ = recipe.dataset(settings.dataset)
    if settings.epochs is not None and settings.epochs < 1:
        raise UsageError(f"--epochs must be at least 1, not {settings.epochs}")
    if out is not None and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give --out a new folder, nothing is overwritten")
    accelerator_of(settings.device)
    compressing.check(recipe, settings)
    settings = replace(settings, dataset=dataset)
    settings = compressing.resolved(project, name, recipe, settings)
    ready = _prepare(project, name, recipe, settings)
    folder = out or runs.new_run_folder(project, name)
    folder.mkdir(parents=True, exist_ok=True)
    with runs.locked(folder), _left_resumable(name, folder, new=True):
        write_text(folder / runs.SETTINGS, json.dumps(asdict(settings), indent=1) + "\n")
        return _train(ready, folder)


def resume(project: Project, name: str, out: Path | None = None, device: str | None = None) -> Run:
    """Goes on with a training that was stopped or killed, from the end of its last whole epoch.

    Args:
        out: its folder; by default the newest unfinished one under `runs/<name>/`.
        device: another one than it was begun on.

    Raises:
        UsageError, VestalError: as from `train`; there is none to resume, or it is running.
    """
    folder = out or runs.unfinished_run(project, name)
    if not (folder / runs.SETTINGS).is_file() or (folder / runs.RECORD).is_file():
        raise UsageError(f"{folder} is no training that was stopped: there is nothing to resume")
    with runs.locked(folder), _left_resumable(name, folder, new=False):
        settings = Settings(**json.loads((folder / runs.SETTINGS).read_text("utf-8")))
        settings = replace(settings, device=device or settings.device)
        accelerator_of(settings.device)
        return _train(_prepare(project, name, load_recipe(project, name), settings), folder)


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A training that can begin: all that can be wrong before is found.

    Attributes:
        splits: as they are trained on; `given`: as they were loaded (texts, of a language).
        example: a batch of two, as the model takes it: what tracing and pruning look at.
        compression: what is made smaller, if anything.
    """

    name: str
    home: Path
    recipe: Recipe
    settings: Settings
    chosen: DataSet
    given: Splits
    splits: Splits
    transform: Transform
    example: Tensor
    learner: Learner
    formats: Sequence[str]
    tokenizer: Any = None
    compression: Compression | None = None


def _prepare(project: Project, name: str, recipe: Recipe, settings: Settings) -> _Ready:
    _, chosen = recipe.dataset(settings.dataset)
    given = recipe.splits(settings.dataset, Path(settings.data) if settings.data else None)
    check_splits(recipe, given, str(settings.dataset))
    labels = given.labels
    transform = load_transform(project, name, chosen.transforms)
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    tokenizer, splits = language.tokenize(recipe, given) if recipe.tokenizer else (None, given)
    two = fetch(splits.train, [index % len(splits.train) for index in (0, 1)])
    example = torch.stack([transform(one) for one, _ in two])
    module, compression = compressing.begin(
        project, recipe, chosen, labels, transform, example, settings
    )
    source = str(find_model(project, name) / "model.py")
    check_outputs(recipe, module, labels, example, source, str(settings.dataset))
    formats = (compression and compression.formats) or recipe.saves
    saving.check(module, formats, example)
    learner = Learner(recipe, module, labels, settings.seed)
    if compression and compression.teacher:
        learner = Distiller(recipe, module, labels, settings.seed, teacher=compression.teacher)
    return _Ready(
        name=name,
        home=find_model(project, name),
        recipe=recipe,
        settings=settings,
        chosen=chosen,
        given=given,
        splits=splits,
        transform=transform,
        example=example,
        learner=learner,
        formats=formats,
        tokenizer=tokenizer,
        compression=compression,
    )


def _train(ready: _Ready, folder: Path) -> Run:
    compression = ready.compression
    trained = fit(
        ready.learner,
        ready.splits,
        ready.transform,
        folder,
        epochs=ready.settings.epochs or ready.chosen.epochs,
        device=ready.settings.device,
        augment=ready.chosen.augment,
        teacher_transform=compression.transform if compression and compression.teacher else None,
    )
    run = _save(ready, trained, folder)
    run.write()
    shutil.rmtree(folder / CHECKPOINTS)
    return run


def _save(ready: _Ready, trained: Trained, folder: Path) -> Run:
    recipe, given = ready.recipe, ready.given
    artifacts = saving.save(trained.module, ready.formats, folder, ready.example)
    support = write_support(ready.home, folder, given.labels, ready.chosen.transforms)
    figures = trained.test
    if ready.tokenizer is not None:
        figures = language.figures(trained.module, ready.tokenizer, given.test)
        ready.tokenizer.save(str(folder / "tokenizer.json"))
        support += [file for file in saving.LANGUAGE_MODEL if (folder / file).is_file()]
    write_sample(recipe.task, given.test[0][0], folder)
    draw_curve(json.loads((folder / HISTORY).read_text("utf-8")), folder / runs.CURVE)
    compression: dict[str, Any] = {}
    if ready.compression:
        compression = ready.compression.report(
            recipe, given, ready.transform, trained.module, folder / artifacts[0]
        )
    return Run(
        folder=folder,
        model=ready.name,
        task=recipe.task,
        dataset=str(ready.settings.dataset),
        artifacts=artifacts,
        support=support,
        figure=recipe.objective.figure,
        seed=ready.settings.seed,
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        validation=trained.validation,
        test=figures,
        test_size=len(given.test),
        input_shape=list(ready.example.shape[1:]),
        versions=versions(),
        compression=compression,
        background=getattr(given.train, "background", None),
    )


@contextmanager
def _left_resumable(name: str, folder: Path, *, new: bool) -> Iterator[None]:
    """Remove a new training that failed before the end of its first epoch: it left no weights.

    Raises:
        VestalError: the disk is full; it says how to resume a training that can be resumed.
    """
    try:
        yield
    except BaseException as error:
        begun = (folder / LAST).is_file()
        if new and not begun:
            shutil.rmtree(folder)
        elif begun and (reason := describe_disk_error(error, denied=False)):
            raise VestalError(
                f"{reason}: `vestal train {name} --resume` continues after the last whole epoch"
            ) from error
        raise
