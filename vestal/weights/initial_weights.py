"""Initial weights of a training: from a run, a file, or a function of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.recipes.recipe import Recipe
from vestal.runs import Run, find_run
from vestal.weights.checkpoints import COUNTER, read_checkpoint, split_part, unwrap_keys
from vestal_handlers.engines import eager

STATE_SUFFIXES = (".pth", ".safetensors")  # of artifacts that are state_dicts


def locate_weights(project: Project, recipe: Recipe, name: str) -> str:
    """The same weights by a name that does not change, unlike the newest run of a model.

    Args:
        name: as in `read_weights`.

    Raises:
        UsageError: there are no such weights.
        VestalError: an unfinished run.
    """
    if name in recipe.weights:
        return name
    file, part = split_part(name)
    if file.is_file():
        return f"{file.resolve()}:{part}" if part else str(file.resolve())
    if Path(name).is_dir() or (project.runs / name).is_dir():
        return str(find_run(project, name).folder.resolve())
    own = f", or weights of the recipe: {', '.join(recipe.weights)}" if recipe.weights else ""
    raise UsageError(
        f"no initial weights {name}: expected a file (state_dict, checkpoint or safetensors), the "
        f"folder of a training, a model that was trained in this project{own}"
    )


def read_weights(project: Project, recipe: Recipe, name: str) -> tuple[Mapping[str, Tensor], str]:
    """A state_dict, and its source for messages.

    Args:
        name: a name in the recipe's `weights`, a file (state_dict, checkpoint, safetensors), or a
            run: its folder, or the name of a model.
    """
    if name in recipe.weights:
        weights = recipe.weights[name]()
        return weights.module.state_dict(), weights.source
    file, part = split_part(name)
    if file.is_file():
        try:
            return read_checkpoint(file, part), name
        except ValueError as error:
            raise VestalError(str(error)) from None
    file = state_file(find_run(project, name))
    return eager.read(file), str(file)


def state_file(run: Run) -> Path:
    """The artifact of a run that is a state_dict; UsageError if it has other formats only."""
    for name in run.artifacts:
        if Path(name).suffix in STATE_SUFFIXES:
            return run.folder / name
    raise UsageError(
        f"{run.folder} holds {', '.join(run.artifacts)}: initial weights must be a state_dict "
        "(.pth or .safetensors)"
    )


def transfer(state: Mapping[str, Tensor], source: str, module: nn.Module) -> None:
    """Copy the tensors whose shapes fit; with other classes, the last layer keeps its values.

    Keys may have the prefixes of wrappers (`checkpoints.unwrap_keys`).

    Raises:
        VestalError: less than half of the module's tensors fit, so it is another architecture.
    """
    places = {key: place for key, place in module.state_dict().items() if not key.endswith(COUNTER)}
    state = unwrap_keys(state, set(module.state_dict()), source)
    misfits = [k for k, place in places.items() if k not in state or state[k].shape != place.shape]
    if 2 * len(misfits) > len(places):
        raise VestalError(
            f"{source} fits {len(places) - len(misfits)} of the model's {len(places)} tensors (not "
            f"{', '.join(misfits[:4])}): initial weights must have the same architecture; only the "
            "last layer may differ"
        )
    fitting = {key: value for key, value in state.items() if key in places and key not in misfits}
    module.load_state_dict(fitting, strict=False)
