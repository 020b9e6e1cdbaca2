"""Whose code runs: Vestal's own, and that of the project's models/ and runs/; no other folder's.

Weights may come from anywhere. A training from outside the project is taken where its code is the
same, byte by byte, as the project's own, and then the project's own is what runs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from vestal.errors import VestalError
from vestal.models import find_model, support_files
from vestal.project import Project
from vestal.runs import LABELS, SAMPLE, TRANSFORMS, Run, stays_inside

# What a run holds beside code: read as JSON, never run.
DATA = (LABELS, "config.json", "generation_config.json", "tokenizer.json")


def is_own(project: Project, folder: Path) -> bool:
    """Whether a folder is in the project's runs/, links followed."""
    return folder.resolve().is_relative_to(project.runs.resolve())


def trusted(project: Project, run: Run, task: str, scratch: Path) -> Run:
    """The run itself if it is the project's, else a copy with the project's code.

    Args:
        task: of the run's model in this project.
        scratch: a folder to make.

    Raises:
        UsageError: the project has no model of the run's name.
        VestalError: the run has other code than the project.
    """
    if is_own(project, run.folder):
        return run
    home = find_model(project, run.model)
    files = support_files(home, _transforms_of(home, run.folder))
    # A file that is not listed would be imported all the same.
    own = {name: file for name, file in files.items() if (run.folder / name).is_file()}
    code = sorted({name for name in run.support if name not in DATA} | own.keys())
    different = [name for name in code if not _same(own.get(name), run.folder / name)]
    if run.task != task:
        different.append(f"its task, {run.task!r:.40}")
    if different:
        raise VestalError(
            f"{run.folder} is a training from outside this project with other code than {home} "
            f"({', '.join(different[:4])}). Vestal runs no code from outside the project. If you "
            f"trust this code, copy it into {project.models / run.model}, "
            f"or the whole folder into {project.runs / run.model}"
        )
    scratch.mkdir(parents=True)
    taken = {name: run.folder / name for name in run.artifacts}
    taken |= {name: run.folder / name for name in run.support if name in DATA}
    samples = [f"{SAMPLE}/{file.name}" for file in (run.folder / SAMPLE).glob("input.*")]
    taken |= {name: run.folder / name for name in samples if stays_inside(run.folder, name)}
    for name, source in {**taken, **own}.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, scratch / name)
    support = [*own, *(name for name in run.support if name in DATA)]
    return replace(run, folder=scratch, support=support)


def _transforms_of(home: Path, folder: Path) -> str:
    """The module of the model's folder that a run's transforms.py is a copy of."""
    for module in sorted(home.glob("transforms*.py")):
        if _same(module, folder / TRANSFORMS):
            return module.stem
    return "transforms"


def _same(own: Path | None, given: Path) -> bool:
    return own is not None and given.is_file() and own.read_bytes() == given.read_bytes()
