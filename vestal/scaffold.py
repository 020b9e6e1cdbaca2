"""Create model folders from templates, for `vestal new`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from string import Template

from vestal.errors import UsageError
from vestal.files.storage import scratch_folder
from vestal.files.table_columns import Choice
from vestal.model_folders import NAME, zoo
from vestal.project import Project
from vestal.weights import hugging_face

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".template"  # keeps linters and imports away from files with placeholders
PRETRAINED = "transformers"
TASKS = ("image_classifier", "text_generator", "text_classifier", "regressor", "custom")
BUNDLED = ("text_generator", "text_classifier", "regressor")  # tasks whose folder contains data


@dataclass(frozen=True)
class NewModel:
    """`folder`: models/<name>. `files`: its files. `next_command`: the command to run next."""

    folder: Path
    files: list[str]
    next_command: str


def create(
    project: Project,
    name: str,
    task: str,
    data: Path | None = None,
    target: str | None = None,
    *,
    ignore: Sequence[str] = (),
    encode: Sequence[str] = (),
    weights: Path | None = None,
    base: Path | None = None,
) -> NewModel:
    """Write `models/<name>/`, completely or not at all.

    Args:
        data: table or text to copy into the folder; None: a small data set from Python or
            scikit-learn.
        target: column of a regressor's table to predict; None: the last one.
        ignore: columns of the table to leave out.
        encode: text columns to turn into columns of 0 and 1, one for each value.
        weights: the Hugging Face folder of a pretrained model; it is not copied.
        base: the folder of the model that it is an adapter for.

    Raises:
        UsageError: an invalid name, an unknown task, an existing folder, or a Hugging Face folder
            that cannot be served.
        VestalError: `data` cannot be read.
    """
    pretrained: dict[str, str] = {}
    if weights is not None or task == PRETRAINED or task in hugging_face.TASKS:
        pretrained = _pretrained(task, weights, base)
        task = PRETRAINED
    elif task not in TASKS:
        raise UsageError(
            f"unknown task {task!r}: expected one of {', '.join(TASKS)}; or, with "
            f"--weights FOLDER, {PRETRAINED} or one of {', '.join(hugging_face.TASKS)}"
        )
    folder = project.models / name
    _check_name(name, folder)
    choice = Choice(target, ignore, encode)
    if choice.named and (task != "regressor" or data is None):
        raise UsageError(
            "--target, --ignore and --encode name columns of a regressor's table: they require "
            "--task regressor and --data FILE"
        )
    if data is not None and task == "image_classifier":
        raise UsageError(
            "--data does not accept a folder of images here; pass it to `vestal train`: "
            f"vestal train {name} --dataset folder --data DIR"
        )
    if data is not None and task == "custom":
        raise UsageError("--data is for models that are trained; a custom model is only served")
    project.models.mkdir(parents=True, exist_ok=True)
    with scratch_folder(project.models, ".new-") as scratch:
        new_folder = scratch / name
        new_folder.mkdir()
        values = {"name": name, "test": _test_name(name), **pretrained}
        if task in BUNDLED:
            from vestal import starters

            values |= starters.add_data(task, new_folder / "data", data, choice)
        for template in sorted((TEMPLATES / task).glob(f"*{SUFFIX}")):
            # The test is a module, so its name must be a Python identifier.
            file = template.name.removesuffix(SUFFIX).replace("test_model", values["test"])
            (new_folder / file).write_text(render(template, values), "utf-8")
        new_folder.rename(folder)
    files = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    next_command = {
        "image_classifier": f"vestal train {name} --dataset digits",
        "custom": f"vestal pack {name} --version 1.0 --weights FILE",
    }
    if weights is not None:
        next_command[PRETRAINED] = (
            f"vestal pack {name} --version 1.0 --weights {quote(str(weights))}"
        )
    return NewModel(folder, files, next_command.get(task, f"vestal train {name}"))


def _pretrained(task: str, weights: Path | None, base: Path | None) -> dict[str, str]:
    """The values for the template of a pretrained model."""
    if weights is None or not hugging_face.is_folder(weights):
        raise UsageError(
            f"--task {task} needs --weights FOLDER, a folder that transformers has saved "
            f"(config.json and weights){f'; {weights} is none' if weights else ''}"
        )
    if task == PRETRAINED:
        task = hugging_face.recognize(weights, base)
    if task not in hugging_face.TASKS:
        raise UsageError(
            f"unknown task {task!r} for a Hugging Face folder: expected {PRETRAINED} or one of "
            f"{', '.join(hugging_face.TASKS)}"
        )
    hugging_face.check_folder(weights, task, base)
    kind = hugging_face.TASKS[task]
    return {"task": task, "module": kind.module, "handler": kind.handler, "weights": str(weights)}


def render(template: Path, values: dict[str, str]) -> str:
    return Template(template.read_text("utf-8")).substitute(values)


def _check_name(name: str, folder: Path) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"invalid model name {name!r}: expected letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit"
        )
    if name.lower() in {model.name.lower() for model in zoo().glob("*/")}:
        raise UsageError(
            f"{name} is a model of Vestal's zoo, which yours would hide; choose another name"
        )
    if name in sys.stdlib_module_names:
        raise UsageError(
            f"{name} is a module of Python's standard library, which yours could hide; "
            "choose another name"
        )
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists and is not overwritten; choose another name")


def _test_name(name: str) -> str:
    return "test_" + re.sub(r"\W", "_", name, flags=re.ASCII)
