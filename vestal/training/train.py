"""Train a model with its recipe, or resume an interrupted training.

`train` chooses a strategy (ordinary training, distillation or pruning), which does the rest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from vestal import runs
from vestal.errors import UsageError, VestalError
from vestal.files.disk_errors import describe_disk_error
from vestal.files.storage import write_text
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run
from vestal.training.distillation import Distillation
from vestal.training.loop import LAST
from vestal.training.pruning import Pruning
from vestal.training.settings import Settings
from vestal.training.strategy import Strategy


def train(project: Project, name: str, settings: Settings, out: Path | None = None) -> Run:
    """Train a model with its recipe and save the run.

    Args:
        out: folder to create; by default the next number under `runs/<name>/`. A training that
            fails in its first epoch leaves no folder.

    Raises:
        UsageError: an unknown model or data set, or `out` is not empty.
        VestalError: the data set is not available, the module cannot be saved in the formats of
            the recipe, or the training was interrupted.
    """
    if out is not None and out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and is not overwritten: pass a new folder with --out")
    strategy = _choose_strategy(project, name, settings)
    return strategy.run(_new_folder(project, name, out, strategy))


def resume(project: Project, name: str, out: Path | None = None, device: str | None = None) -> Run:
    """Continue an interrupted training after its last complete epoch.

    Args:
        out: folder of the training; by default the newest unfinished one under `runs/<name>/`.
        device: device to continue on; by default the one of the interrupted training.

    Raises:
        UsageError, VestalError: as in `train`, or there is no interrupted training, or it runs.
    """
    folder = out or runs.unfinished_run(project, name)
    if not (folder / runs.SETTINGS).is_file() or (folder / runs.RECORD).is_file():
        raise UsageError(f"{folder} is not an interrupted training: there is nothing to resume")
    with runs.lock_folder(folder), _cleanup(name, folder, new=False):
        settings = _read_settings(folder / runs.SETTINGS, device)
        return _choose_strategy(project, name, settings).run(nullcontext(folder))


def _choose_strategy(project: Project, name: str, settings: Settings) -> Strategy:
    kind = Strategy
    if settings.teacher:
        kind = Distillation
    elif settings.prune is not None:
        kind = Pruning
    return kind(project, name, load_recipe(project, name), settings)


def _read_settings(file: Path, device: str | None) -> Settings:
    try:
        values = json.loads(file.read_text("utf-8"))
        return Settings(**(values | ({"device": device} if device else {})))
    except (TypeError, ValueError) as error:
        raise VestalError(
            f"{file} does not hold the settings of this version of Vestal ({error}): start a new "
            "training"
        ) from None


@contextmanager
def _new_folder(
    project: Project, name: str, out: Path | None, strategy: Strategy
) -> Iterator[Path]:
    """The locked folder of a new training, with its settings."""
    folder = out or runs.new_run_folder(project, name)
    folder.mkdir(parents=True, exist_ok=True)
    with runs.lock_folder(folder), _cleanup(name, folder, new=True):
        text = json.dumps(asdict(strategy.settings), indent=1) + "\n"
        write_text(folder / runs.SETTINGS, text)
        yield folder


@contextmanager
def _cleanup(name: str, folder: Path, *, new: bool) -> Iterator[None]:
    """Remove a new training that fails before the end of its first epoch: it has no weights.

    Raises:
        VestalError: the disk is full; the message says how to resume.
    """
    try:
        yield
    except BaseException as error:
        resumable = (folder / LAST).is_file()
        if new and not resumable:
            shutil.rmtree(folder)
        elif resumable and (reason := describe_disk_error(error, denied=False)):
            raise VestalError(
                f"{reason}: `vestal train {name} --resume` continues after the last complete epoch"
            ) from error
        raise
