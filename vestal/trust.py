"""Decide which code may run: Vestal's own, and that in models/ and runs/ of the project.

Weights may come from anywhere. A training from outside the project is accepted if its code equals
the project's byte for byte; then the project's code runs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from vestal.errors import VestalError
from vestal.model_folders import find_model, support_files
from vestal.project import Project
from vestal.runs import LABELS, SAMPLE, TRANSFORMS, Run, stays_inside

# Support files of a run that are JSON, not code.
DATA = (LABELS, "config.json", "generation_config.json", "tokenizer.json")


def is_own(project: Project, folder: Path) -> bool:
    """Whether a folder is in the project's runs/, after links are followed."""
    return folder.resolve().is_relative_to(project.runs.resolve())


def trusted_run(project: Project, run: Run, task: str, scratch: Path) -> Run:
    """The run itself if it is in the project, else a copy with the code of the project.

    Args:
        task: the task of the run's model in this project.
        scratch: folder to create for the copy.

    Raises:
        UsageError: the project has no model of this name.
        VestalError: the code of the run differs from the project's.
    """
    if is_own(project, run.folder):
        return run
    home = find_model(project, run.model)
    files = support_files(home, _transforms_of(home, run.folder))
    # Python would also import files that the record does not list.
    own = {name: file for name, file in files.items() if (run.folder / name).is_file()}
    code = sorted({name for name in run.support if name not in DATA} | own.keys())
    different = [name for name in code if not _same(own.get(name), run.folder / name)]
    if run.task != task:
        different.append(f"its task, {run.task!r:.40}")
    if different:
        raise VestalError(
            f"{run.folder} is a training from outside this project, and its code differs from "
            f"{home} ({', '.join(different[:4])}). Vestal runs no code from outside the project. "
            f"If you trust this code, copy it into {project.models / run.model}, "
            f"or the whole folder into {project.runs / run.model}"
        )
    scratch.mkdir(parents=True)
    sources = {name: run.folder / name for name in run.artifacts}
    sources |= {name: run.folder / name for name in run.support if name in DATA}
    samples = [f"{SAMPLE}/{file.name}" for file in (run.folder / SAMPLE).glob("input.*")]
    sources |= {name: run.folder / name for name in samples if stays_inside(run.folder, name)}
    for name, source in {**sources, **own}.items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, scratch / name)
    support = [*own, *(name for name in run.support if name in DATA)]
    return replace(run, folder=scratch, support=support)


def _transforms_of(home: Path, folder: Path) -> str:
    """The module of the model folder that equals the run's transforms.py."""
    for module in sorted(home.glob("transforms*.py")):
        if _same(module, folder / TRANSFORMS):
            return module.stem
    return "transforms"


def _same(own: Path | None, file: Path) -> bool:
    return own is not None and file.is_file() and own.read_bytes() == file.read_bytes()
