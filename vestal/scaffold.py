"""`vestal new`: a model folder that trains, packs and serves at once, to be changed from there."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from vestal.errors import UsageError
from vestal.files.storage import scratch_folder
from vestal.files.table_columns import Choice
from vestal.models import NAME, zoo
from vestal.project import Project

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".template"  # no Python until it is filled in
TASKS = ("image_classifier", "text_generator", "text_classifier", "regressor")


@dataclass(frozen=True)
class NewModel:
    """`folder`: models/<name>. `files`: in it. `train`: the command that trains it at once."""

    folder: Path
    files: list[str]
    train: str


def create(
    project: Project,
    name: str,
    task: str,
    data: Path | None = None,
    target: str | None = None,
    *,
    ignore: Sequence[str] = (),
    encode: Sequence[str] = (),
) -> NewModel:
    """Writes `models/<name>/`, whole or not at all.

    Args:
        data: a table or text to begin with, copied into the folder; None: a small one that comes
            with Python or scikit-learn.
        target: a regressor's column of `data` that is predicted; None: the last one.
        ignore: columns of `data` that are not used.
        encode: columns of text that become columns of 0 and 1, one for each value.

    Raises:
        UsageError: a name or task that cannot be, or a folder that is there already.
        VestalError: `data` cannot be read.
    """
    if task not in TASKS:
        raise UsageError(f"no task {task!r}: the tasks are {', '.join(TASKS)}")
    folder = project.models / name
    _check_name(name, folder)
    choice = Choice(target, ignore, encode)
    if choice.named and (task != "regressor" or data is None):
        raise UsageError(
            "--target, --ignore and --encode name columns of a regressor's table: add --data FILE"
        )
    if data is not None and task == "image_classifier":
        raise UsageError(
            "a folder of images is named when it is trained on: "
            f"vestal train {name} --dataset folder --data DIR"
        )
    project.models.mkdir(parents=True, exist_ok=True)
    with scratch_folder(project.models, ".new-") as scratch:
        made = scratch / name
        made.mkdir()
        values = {"name": name, "test": _test_name(name)}
        if task != "image_classifier":
            from vestal import starters

            values |= starters.begin(task, made / "data", data, choice)
        for template in sorted((TEMPLATES / task).glob(f"*{SUFFIX}")):
            # A name may hold what Python's may not: the test is a module.
            file = template.name.removesuffix(SUFFIX).replace("test_model", values["test"])
            (made / file).write_text(render(template, values), "utf-8")
        made.rename(folder)
    files = sorted(
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    )
    dataset = " --dataset digits" if task == "image_classifier" else ""
    return NewModel(folder, files, f"vestal train {name}{dataset}")


def render(template: Path, values: dict[str, str]) -> str:
    return Template(template.read_text("utf-8")).substitute(values)


def _check_name(name: str, folder: Path) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be part of a file name and an address: take letters, digits, dots, "
            "dashes and underscores, a letter or digit first"
        )
    if name.lower() in {model.parent.name.lower() for model in zoo().glob("*/recipe.py")}:
        raise UsageError(
            f"{name} is a model of Vestal's zoo, which yours would hide: take another name"
        )
    if name in sys.stdlib_module_names:
        raise UsageError(
            f"{name} is a module of Python's standard library, which yours could hide: "
            "take another name"
        )
    if folder.exists() or folder.is_symlink():
        raise UsageError(
            f"{folder} is there already, and nothing is overwritten: take another name"
        )


def _test_name(name: str) -> str:
    return "test_" + re.sub(r"\W", "_", name, flags=re.ASCII)
