"""Where models are found: `models/` of the project first, then the zoo that travels with Vestal."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from vestal.errors import UsageError
from vestal.project import Project

# What TorchServe takes in a URL path and a file name takes everywhere.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

# One of these makes a folder a model: a recipe trains it; a handler alone only serves it.
DEFINITIONS = ("recipe.py", "handler.py")


def zoo() -> Path:
    """The bundled models: `vestal/zoo` in the wheel, `models` in the repository."""
    package = Path(__file__).parent
    bundled = package / "zoo"
    return bundled if bundled.is_dir() else package.parent / "models"


def find_model(project: Project, name: str) -> Path:
    """The folder of a model.

    Raises:
        UsageError: there is none of that name, and the message names those there are; or a file of
            it is a link that leads out of the project.
    """
    for parent in (project.models, zoo()):
        if NAME.fullmatch(name) and _is_model(parent / name):
            _check_links(parent / name, (parent / name).iterdir())
            return parent / name
    known = model_names(project)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"no model {name!r}: {hint}the models are {', '.join(known)} "
        f"(folders with {' or '.join(DEFINITIONS)} in {project.models} and in Vestal's zoo)"
    )


def model_name(project: Project, given: str) -> str:
    """The name of a model that is given by name or by its folder (`models/mnist/`)."""
    path = project.path(given)
    inside = path.parent.resolve() in (project.models.resolve(), zoo().resolve())
    return path.name if inside and _is_model(path) else given


def _is_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in DEFINITIONS)


def handler_options(folder: Path) -> dict[str, Any]:
    """What stands under `handler:` in a folder's model-config.yaml; {}: nothing, or no such file.

    Raises:
        UsageError: it cannot be read.
    """
    file = folder / "model-config.yaml"
    if not file.is_file():
        return {}
    try:
        config = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    options = config.get("handler") if isinstance(config, dict) else None
    return options if isinstance(options, dict) else {}


def model_names(project: Project) -> list[str]:
    """Every model that `find_model` finds."""
    folders = [*project.models.glob("*"), *zoo().glob("*")]
    return sorted({folder.name for folder in folders if _is_model(folder)})


def _check_links(folder: Path, files: Iterable[Path]) -> None:
    """Raises UsageError for a link out of the project: what it leads to would run or be packed."""
    places = (folder.resolve(), folder.absolute().parents[1].resolve())
    for file in files:
        if file.name == "data":  # often a link to another disk; it is read, and never run or packed
            continue
        if file.is_symlink() and not any(file.resolve().is_relative_to(place) for place in places):
            raise UsageError(
                f"{file} is a link to {file.readlink()}, outside of the project: "
                "put a copy of it in its place"
            )


# Of a model folder, what says how to train, test and serve it: it stays at home. So does the data,
# and what only the recipe imports, where it is called so.
STAYS = (
    "recipe.py",
    "training*",
    "handler.py",
    "model-config.yaml",
    "README.md",
    "data",
    "tests",
    "test_*",
)


def support_files(folder: Path, transforms: str = "transforms") -> dict[str, Path]:
    """What travels in an archive beside the weights, by its name there: the model's own code.

    `transforms` names the module that becomes `transforms.py`.
    """
    own = {f"{transforms}.py": "transforms.py"}
    found = {}
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith((".", "__pycache__")) for part in parts)
        stays = hidden or any(fnmatch(parts[0], pattern) for pattern in STAYS)
        another = parts[0] == "transforms.py" and transforms != "transforms"
        if file.is_file() and not stays and not another:
            _check_links(folder, [file])
            name = "/".join(parts)
            found[own.get(name, name)] = file
    return found
