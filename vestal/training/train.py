"""Trains a model by its recipe and saves what `vestal.runs` describes."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch

from vestal import runs
from vestal.errors import UsageError
from vestal.models import find_model
from vestal.project import Project
from vestal.runs import Run
from vestal.training import compressing, language, saving
from vestal.training.compressing import Settings
from vestal.training.loop import CHECKPOINTS, HISTORY, Learner, fit
from vestal.training.plots import draw_curve
from vestal.training.recipe import DataSet, Recipe, Splits, load_recipe, load_transform
from vestal.training.run_files import versions, write_sample, write_support


def train(project: Project, name: str, settings: Settings, out: Path | None = None) -> Run:
    """Trains a model by its recipe and saves the run.

    Args:
        out: a folder to make; by default the next number under `runs/<name>/`.

    Raises:
        UsageError: no such model, data set or device, or `out` holds something already.
        VestalError: the data set cannot be had, or the training was stopped.
    """
    recipe = load_recipe(project, name)
    dataset, _ = recipe.dataset(settings.dataset)
    if settings.epochs is not None and settings.epochs < 1:
        raise UsageError(f"--epochs must be at least 1, not {settings.epochs}")
    if out is not None and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give --out a new folder, nothing is overwritten")
    compressing.check(recipe, settings)
    data = Path(settings.data) if settings.data else None
    splits = recipe.splits(dataset, data)  # before a folder is made: it may not be had
    folder = out or runs.new_run_folder(project, name)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {**asdict(settings), "dataset": dataset}
    (folder / runs.SETTINGS).write_text(json.dumps(chosen, indent=1) + "\n", "utf-8")
    return _train(project, name, recipe, splits, Settings(**chosen), folder)


def resume(project: Project, name: str, out: Path | None = None) -> Run:
    """Goes on with a training that was stopped or killed, from the end of its last whole epoch.

    Args:
        out: its folder; by default the newest unfinished one under `runs/<name>/`.

    Raises:
        UsageError, VestalError: as from `train`; there is none to resume.
    """
    folder = out or runs.unfinished_run(project, name)
    if not (folder / runs.SETTINGS).is_file() or (folder / runs.RECORD).is_file():
        raise UsageError(f"{folder} is no training that was stopped: there is nothing to resume")
    settings = Settings(**json.loads((folder / runs.SETTINGS).read_text("utf-8")))
    recipe = load_recipe(project, name)
    data = Path(settings.data) if settings.data else None
    splits = recipe.splits(settings.dataset, data)
    return _train(project, name, recipe, splits, settings, folder)


def _train(
    project: Project, name: str, recipe: Recipe, splits: Splits, settings: Settings, folder: Path
) -> Run:
    dataset, chosen = recipe.dataset(settings.dataset)
    transform = load_transform(project, name, chosen.transforms)
    labels = splits.labels
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    tokenizer = None
    texts = splits
    if recipe.tokenizer:
        tokenizer, splits = language.tokenize(recipe, splits)
    # A batch of two, as the model takes it: what tracing and pruning look at.
    example = torch.stack(
        [transform(splits.train[index % len(splits.train)][0]) for index in (0, 1)]
    )
    plan = compressing.plan(project, name, recipe, labels, example, settings)
    learner = plan.learner or _fresh(recipe, chosen, labels, settings.seed)
    trained = fit(
        learner,
        splits,
        transform,
        folder,
        epochs=settings.epochs or chosen.epochs,
        device=settings.device,
        augment=chosen.augment,
        teacher_transform=plan.teacher_transform,
    )
    figures = trained.test
    if recipe.tokenizer:
        figures = language.figures(trained.module, tokenizer, texts.test)
    formats = plan.formats or recipe.saves
    artifacts = saving.save(trained.module, formats, folder, example)
    support = write_support(find_model(project, name), folder, labels, chosen.transforms)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        support += [file for file in saving.LANGUAGE_MODEL if (folder / file).is_file()]
    write_sample(recipe.task, texts.test[0][0], folder)
    draw_curve(json.loads((folder / HISTORY).read_text("utf-8")), folder / runs.CURVE)
    run = Run(
        folder=folder,
        model=name,
        task=recipe.task,
        dataset=dataset,
        artifacts=artifacts,
        support=support,
        figure=recipe.objective.figure,
        seed=settings.seed,
        epochs=trained.epochs,
        best_epoch=trained.best_epoch,
        validation=trained.validation,
        test=figures,
        test_size=len(texts.test),
        input_shape=list(example.shape[1:]),
        versions=versions(),
        compression=plan.report(trained, figures, folder / artifacts[0]),
    )
    run.write()
    shutil.rmtree(folder / CHECKPOINTS)
    return run


def _fresh(recipe: Recipe, chosen: DataSet, labels: Any, seed: int) -> Learner:
    torch.manual_seed(seed)
    module = recipe.make(labels)
    if chosen.start:
        transfer(recipe.weights[chosen.start]().module, module)
    return Learner(recipe, module, labels, seed)


def transfer(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Copies the weights whose shapes fit; another number of classes keeps its fresh last layer."""
    places = target.state_dict()
    fitting = {
        key: value
        for key, value in source.state_dict().items()
        if key in places and places[key].shape == value.shape
    }
    target.load_state_dict(fitting, strict=False)
