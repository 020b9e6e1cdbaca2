"""Weights from elsewhere become a run: files in any usual format, and those a recipe names.

A state_dict is taken out of the checkpoint it stands in, and its keys lose the prefixes that
wrappers leave. Nothing is unpickled but tensors.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vestal.errors import UsageError, VestalError
from vestal.models import find_model
from vestal.project import Project
from vestal.runs import Run
from vestal.training import saving
from vestal.training.recipe import Recipe, load_recipe, load_transform
from vestal.training.train import versions, write_support
from vestal_handlers.engines import eager

# Where checkpoints keep the state_dict, and what wrappers put before its keys:
# DistributedDataParallel, torch.compile, Lightning modules.
INSIDE = ("state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
SUFFIXES = (".pt", ".pth", ".pt2", ".onnx", ".safetensors", ".bin", ".ckpt")


def bring(
    project: Project, name: str, source: str, folder: Path, labels: Sequence[str] | None = None
) -> Run:
    """Makes a run of weights from elsewhere, in a new folder.

    Args:
        source: a file (state_dict, checkpoint, TorchScript, .pt2, .onnx, safetensors), a Hugging
            Face folder, or the name of weights that the recipe can fetch.
        labels: of the classes, in order; None: the recipe's.

    Raises:
        UsageError: no such weights.
        VestalError: a file that is none of these, holds more than tensors, or does not fit the
            model; the message names the keys.
    """
    recipe = load_recipe(project, name)
    folder.mkdir(parents=True)
    if source in recipe.weights:
        found = recipe.weights[source]()
        labels = labels or found.labels or recipe.labels
        artifacts = _save(found.module, recipe, folder, labels)
        if found.tokenizer is not None:
            found.tokenizer.save(str(folder / "tokenizer.json"))
        return _run(
            project, name, recipe, folder, artifacts, labels, found.source, found.transforms
        )
    path = Path(source)
    if not path.exists():
        names = ", ".join(recipe.weights)
        raise UsageError(
            f"no weights {source}: name a run's folder, a file ({', '.join(SUFFIXES)})"
            + (f", or one of the recipe's own: {names}" if names else "")
        )
    labels = labels or recipe.labels
    try:
        artifacts = _from_path(path, recipe, folder, labels)
    except (ValueError, ModuleNotFoundError) as error:
        raise VestalError(f"{path}: {error}") from None
    return _run(project, name, recipe, folder, artifacts, labels, path.name, "transforms")


def _from_path(path: Path, recipe: Recipe, folder: Path, labels: Sequence[str] | None) -> list[str]:
    if path.is_dir():
        return _copy_language_model(path, folder)
    kind = _kind(path)
    if kind in ("torchscript", "exported", "onnx"):
        shutil.copyfile(path, folder / saving.ARTIFACTS[kind])
        return [saving.ARTIFACTS[kind]]
    module = _make(recipe, labels)
    fill(module, read_checkpoint(path), path.name)
    return _save(module, recipe, folder, labels)


def _copy_language_model(path: Path, folder: Path) -> list[str]:
    needed = ("config.json", "tokenizer.json")
    missing = [file for file in needed if not (path / file).is_file()]
    shards = sorted(path.glob("*.safetensors"))
    if missing or not shards:
        raise VestalError(
            f"{path} is neither a run nor a Hugging Face folder: it has no "
            f"{', '.join([*missing, *([] if shards else ['model.safetensors'])])}"
        )
    if len(shards) > 1:
        raise VestalError(
            f"{path} holds {len(shards)} shards: save it as one file "
            "(model.save_pretrained(folder, max_shard_size='100GB'))"
        )
    for file in (*saving.LANGUAGE_MODEL, shards[0].name):
        if (path / file).is_file():
            target = "model.safetensors" if file == shards[0].name else file
            shutil.copyfile(path / file, folder / target)
    return ["model.safetensors"]


def _kind(path: Path) -> str:
    """By what is in the file, since .pt can be three things."""
    if path.suffix == ".onnx":
        return "onnx"
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return "state_dict"
    with zipfile.ZipFile(path) as content:
        names = content.namelist()
    if any(name.endswith("archive_format") for name in names):
        return "exported"
    return "torchscript" if any("/code/" in name for name in names) else "state_dict"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state_dict in a file of `torch.save` or of safetensors, also inside a checkpoint.

    Raises:
        ValueError: more than tensors in it (named; nothing of it was run), or no state_dict.
    """
    if path.suffix == ".safetensors":
        return eager.read(path)
    loaded = eager.load_pickle(path)
    for _ in range(2):  # {"model": {"state_dict": ...}} has been seen
        inner = [loaded[key] for key in INSIDE if isinstance(loaded, Mapping) and key in loaded]
        if not inner or not isinstance(inner[0], Mapping):
            break
        loaded = inner[0]
    return eager.check_state(loaded, path.name)


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fills a module; keys may have the prefixes that wrappers leave.

    Raises:
        ValueError: keys or shapes that do not fit, by name.
    """
    places = set(module.state_dict())

    def fitting(candidate: Mapping[str, Tensor]) -> int:
        return len(places & set(candidate))

    best = dict(state)
    for _ in range(len(PREFIXES)):  # wrappers can wrap wrappers
        stripped = [_without(best, prefix) for prefix in PREFIXES]
        better = max(stripped, key=fitting)
        if fitting(better) <= fitting(best) and not _common(best):
            break
        best = better if fitting(better) > fitting(best) else _without(best, str(_common(best)))
    eager.fill(module, best, source)


def _common(state: Mapping[str, Tensor]) -> str | None:
    return next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None)


def _without(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _make(recipe: Recipe, labels: Sequence[str] | None) -> nn.Module:
    if recipe.task == "text_generator":
        raise VestalError(
            "a language model is brought as a folder: config.json, tokenizer.json, ..."
        )
    return recipe.make(labels)


def _save(
    module: nn.Module, recipe: Recipe, folder: Path, labels: Sequence[str] | None
) -> list[str]:
    by_name = [
        name for name in recipe.saves if name in ("state_dict", "safetensors", "transformers")
    ]
    # Weights by name first: other formats are made from them when they are asked for.
    return saving.save(module.eval(), by_name or ["safetensors"], folder, torch.empty(0))


def _run(
    project: Project,
    name: str,
    recipe: Recipe,
    folder: Path,
    artifacts: list[str],
    labels: Sequence[str] | None,
    source: str,
    transforms: str,
) -> Run:
    home = find_model(project, name)
    support = write_support(home, folder, labels, transforms)
    support += [file for file in saving.LANGUAGE_MODEL if (folder / file).is_file()]
    blank: Callable[[], Tensor] | None = getattr(
        load_transform(project, name, transforms), "blank", None
    )
    run = Run(
        folder=folder,
        model=name,
        task=recipe.task,
        dataset=source,
        artifacts=artifacts,
        support=support,
        figure=recipe.objective.figure,
        input_shape=list(blank().shape) if blank else [],
        versions=versions(),
    )
    run.write()
    return run
