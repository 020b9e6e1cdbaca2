"""Find what is packed: the model folder, and its weights as a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vestal.errors import UsageError
from vestal.model_folders import find_model, model_names
from vestal.project import Project
from vestal.runs import RECORD, Run, has_run, latest_run
from vestal.scaffold import create
from vestal.trust import is_own, trusted_run
from vestal.weights.hugging_face import is_folder, recognize


def models_for(
    project: Project,
    name: str,
    weights: str | Path | None,
    task: str | None,
    base: Path | None,
    scratch: Path,
) -> tuple[Project, str | None]:
    """Return the project with the model folder, and the task if it was made for these weights.

    A Hugging Face folder needs no model folder: a new one is made below `scratch`.

    Raises:
        UsageError: there is no such model, or a task is named for one that exists.
    """
    folder = None if weights is None else Path(weights)
    new = name not in model_names(project) and folder is not None and is_folder(folder)
    if not new:
        find_model(project, name)
        if task is not None:
            raise UsageError(
                f"--task is for a Hugging Face folder without a model folder, but {name} has one"
            )
        return project, None
    assert folder is not None
    models = Project(scratch / "project")
    task = task or recognize(folder, base)
    create(models, name, task, weights=folder, base=base)
    return models, task


def find_weights(
    project: Project,
    name: str,
    weights: str | Path | None,
    folder: Path,
    labels: Sequence[str] | None = None,
    base: Path | None = None,
) -> Run:
    """Return a training of the project, or import weights as one into `folder`.

    No code of imported weights is used.

    Raises:
        UsageError, VestalError: as from `import_weights` and `trusted_run`.
    """
    home = find_model(project, name)
    if weights is None and not (home / "recipe.py").is_file() and not has_run(project, name):
        how = "Pass weights with --weights FILE"
        if (home / "fetch.yaml").is_file():
            how = f"Get its weights with `vestal fetch {name}`, or pass others with --weights FILE"
        raise UsageError(f"{name} has no recipe.py, so it cannot be trained. {how}")
    given = Path(weights) if weights is not None else latest_run(project, name)
    if (given / RECORD).is_file() or weights is None:
        run = Run.read(given)
        if is_own(project, given):
            return run
        from vestal.recipes.recipe import load_recipe

        return trusted_run(project, run, load_recipe(project, run.model).task, folder)
    from vestal.weights.import_weights import import_weights

    return import_weights(project, name, str(weights), folder, labels, base)
