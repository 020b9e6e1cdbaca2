"""Find model folders: in `models/` of the project, then in the zoo that Vestal includes."""

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

# Valid in a URL path of TorchServe and in file names of every system.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

TRANSFORMS = "transforms.py"

# A model folder has one of these: a recipe to train the model, or a handler that only serves it.
DEFINITIONS = ("recipe.py", "handler.py")

# Files of a model folder that are not copied into a run: how to train, test and serve the model,
# its data, and modules that only the recipe imports (`training*`).
NOT_COPIED = (
    "recipe.py",
    "training*",
    "handler.py",
    "model-config.yaml",
    "fetch.yaml",
    "README.md",
    "data",
    "tests",
    "test_*",
)


def zoo() -> Path:
    """The bundled models: `vestal/zoo` in the wheel, `models` in the repository."""
    package = Path(__file__).parent
    bundled = package / "zoo"
    return bundled if bundled.is_dir() else package.parent / "models"


def find_model(project: Project, name: str) -> Path:
    """The folder of a model.

    Raises:
        UsageError: an unknown model, or a file in its folder is a link out of the project.
    """
    for parent in (project.models, zoo()):
        if NAME.fullmatch(name) and _is_model(parent / name):
            _check_links(parent / name, (parent / name).iterdir())
            return parent / name
    known = model_names(project)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"unknown model {name!r}: {hint}the models are {', '.join(known)} "
        f"(folders with {' or '.join(DEFINITIONS)} in {project.models} and in Vestal's zoo)"
    )


def model_name(project: Project, argument: str) -> str:
    """The name of a model, from its name or the path of its folder (`models/mnist/`)."""
    path = project.path(argument)
    inside = path.parent.resolve() in (project.models.resolve(), zoo().resolve())
    return path.name if inside and _is_model(path) else argument


def _is_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in DEFINITIONS)


def handler_options(folder: Path) -> dict[str, Any]:
    """The section `handler` of a model folder's model-config.yaml; {} if there is none.

    Raises:
        UsageError: the file cannot be read.
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
    """All models that `find_model` finds."""
    folders = [*project.models.glob("*"), *zoo().glob("*")]
    return sorted({folder.name for folder in folders if _is_model(folder)})


def _check_links(folder: Path, files: Iterable[Path]) -> None:
    """Raise UsageError for a link out of the project: its target would be run or packed."""
    places = (folder.resolve(), folder.absolute().parents[1].resolve())
    for file in files:
        if file.name == "data":  # often a link to another disk; never run or packed
            continue
        if file.is_symlink() and not any(file.resolve().is_relative_to(place) for place in places):
            raise UsageError(
                f"{file} is a link to {file.readlink()}, outside of the project: "
                "replace it by a copy"
            )


def support_files(folder: Path, transforms: str = "transforms") -> dict[str, Path]:
    """The files of a model folder that an archive needs besides the weights, by name there.

    `transforms`: the module that becomes `transforms.py`.
    """
    files = {}
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith((".", "__pycache__")) for part in parts)
        excluded = hidden or any(fnmatch(parts[0], pattern) for pattern in NOT_COPIED)
        replaced = parts[0] == TRANSFORMS and transforms != "transforms"
        if file.is_file() and not excluded and not replaced:
            _check_links(folder, [file])
            name = "/".join(parts)
            files[TRANSFORMS if name == f"{transforms}.py" else name] = file
    return files
