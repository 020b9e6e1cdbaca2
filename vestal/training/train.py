"""Trains a model by its recipe and saves what `vestal.runs` describes."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import torch
import torchvision
from torchvision.io import write_png

from vestal import runs
from vestal.errors import UsageError
from vestal.models import find_model
from vestal.project import Project
from vestal.runs import Run
from vestal.training.loop import Trained, fit
from vestal.training.recipe import Recipe, load_recipe


def train(
    project: Project,
    name: str,
    *,
    dataset: str,
    data: Path | None = None,
    epochs: int | None = None,
    device: str = "auto",
    seed: int = 0,
    out: Path | None = None,
) -> Run:
    """Trains a model by its recipe and saves the run.

    Args:
        out: a folder to make; by default the next number under `runs/<name>/`.

    Raises:
        UsageError: no such model, data set or device, or `out` holds something already.
        VestalError: the data set cannot be had.
    """
    recipe = load_recipe(project, name)
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs must be at least 1, not {epochs}")
    if out is not None and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty: give --out a new folder, nothing is overwritten")
    splits = recipe.splits(dataset, data)
    epochs = epochs or recipe.epochs[dataset]
    trained = fit(recipe, splits, epochs=epochs, device=device, seed=seed)
    folder = out or runs.new_run_folder(project, name)
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(
        folder=folder,
        model=name,
        task=recipe.task,
        dataset=dataset,
        seed=seed,
        epochs=epochs,
        best_epoch=trained.best_epoch,
        val_accuracy=trained.val_accuracy,
        test_accuracy=trained.test_accuracy,
        test_size=len(splits.test),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
    )
    _save(trained, recipe, find_model(project, name), folder)
    write_png(splits.test[0][0], str(folder / runs.SAMPLE))
    run.write()
    return run


def _save(trained: Trained, recipe: Recipe, model_folder: Path, folder: Path) -> None:
    with warnings.catch_warnings():
        # Deprecated since torch 2.15; TorchScript is this model's format all the same.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        scripted = torch.jit.script(trained.module)
    scripted.save(str(folder / runs.TORCHSCRIPT))  # type: ignore[no-untyped-call]
    torch.save(trained.module.state_dict(), folder / runs.STATE_DICT)
    names = {str(index): label for index, label in enumerate(recipe.labels)}
    (folder / runs.LABELS).write_text(json.dumps(names, indent=1) + "\n", "utf-8")
    shutil.copyfile(model_folder / runs.TRANSFORMS, folder / runs.TRANSFORMS)
