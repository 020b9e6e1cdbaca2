"""The weights that a training begins with: fresh ones, a run's, a file's, a model hub's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.recipes.recipe import DataSet, Recipe
from vestal.runs import Run, find_run
from vestal.training.settings import Settings
from vestal.weights.checkpoints import COUNTER, read_checkpoint, split_part, unwrapped
from vestal_handlers.engines import eager

BY_NAME = (".pth", ".safetensors")  # artifacts that are weights by name


def begin(
    project: Project,
    recipe: Recipe,
    chosen: DataSet,
    labels: Sequence[str] | None,
    settings: Settings,
) -> nn.Module:
    """The module that is trained: fresh by the seed, then with the weights that were asked for.

    Raises:
        UsageError, VestalError: there are no such weights, or they are of another architecture.
    """
    torch.manual_seed(settings.seed)
    module = recipe.make(labels)
    named = settings.start or chosen.start
    if named:
        state, source = find_state(project, recipe, named)
        transfer(state, module, source)
    return module


def resolve(project: Project, recipe: Recipe, named: str) -> str:
    """What `find_state` takes and finds again: the newest run is another one later on.

    Raises:
        UsageError: nothing is called so.
        VestalError: a run that is not finished.
    """
    if named in recipe.weights:
        return named
    file, part = split_part(named)
    if file.is_file():
        return f"{file.resolve()}:{part}" if part else str(file.resolve())
    if Path(named).is_dir() or (project.runs / named).is_dir():
        return str(find_run(project, named).folder.resolve())
    names = f", or one of the recipe's own: {', '.join(recipe.weights)}" if recipe.weights else ""
    raise UsageError(
        f"no weights {named} to start from: name a file (a state_dict, a checkpoint, safetensors), "
        f"a run's folder, a model that was trained here{names}"
    )


def find_state(project: Project, recipe: Recipe, named: str) -> tuple[Mapping[str, Tensor], str]:
    """Weights by name, and where they come from.

    Args:
        named: a name of the recipe's weights, a file (state_dict, checkpoint, safetensors), or a
            run: its folder, or a model's name.
    """
    if named in recipe.weights:
        found = recipe.weights[named]()
        return found.module.state_dict(), found.source
    file, part = split_part(named)
    if file.is_file():
        try:
            return read_checkpoint(file, part), named
        except ValueError as error:
            raise VestalError(str(error)) from None
    run = find_run(project, named)
    weights = weights_of(run)
    return eager.read(weights), str(weights)


def weights_of(run: Run) -> Path:
    """A run's weights by name; raises UsageError where it holds other formats only."""
    for name in run.artifacts:
        if Path(name).suffix in BY_NAME:
            return run.folder / name
    raise UsageError(
        f"{run.folder} holds {', '.join(run.artifacts)}: a training starts from weights by name "
        "(a state_dict or safetensors)"
    )


def transfer(state: Mapping[str, Tensor], module: nn.Module, source: str) -> None:
    """Copies the weights whose shapes fit; another number of classes keeps its fresh last layer.

    Keys may have the prefixes that wrappers leave (`checkpoints.unwrapped`).

    Raises:
        VestalError: less than half of the model's tensors find theirs, so it is another model.
    """
    places = {key: place for key, place in module.state_dict().items() if not key.endswith(COUNTER)}
    found = unwrapped(state, set(module.state_dict()), source)
    fresh = [k for k, place in places.items() if k not in found or found[k].shape != place.shape]
    if 2 * len(fresh) > len(places):
        raise VestalError(
            f"{source} fits {len(places) - len(fresh)} of the model's {len(places)} tensors (not "
            f"{', '.join(fresh[:4])}): weights to start from are of the same architecture, and "
            "only the last layer may be another"
        )
    kept = {key: value for key, value in found.items() if key in places and key not in fresh}
    module.load_state_dict(kept, strict=False)
