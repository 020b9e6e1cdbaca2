"""Weights from elsewhere become a run: files in any usual format, and those a recipe names."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from vestal.errors import UsageError, VestalError
from vestal.models import find_model, handler_options
from vestal.project import Project
from vestal.recipes.recipe import Recipe, load_recipe, load_transform
from vestal.runs import Run
from vestal.weights import saving
from vestal.weights.checkpoints import fill, read_checkpoint, split_part
from vestal.weights.run_files import versions, write_support

SUFFIXES = (".pt", ".pth", ".pt2", ".onnx", ".safetensors", ".bin", ".ckpt")
LANGUAGE = "text_generator"
CLASSIFIERS = ("image_classifier", "text_classifier")
EXTERNAL = b"\n\x08location"  # in ONNX's protobuf: the name of the file that a tensor is in
MOST_IN_ONE = 2**31 - 2**20  # bytes: protobuf's limit, less what is not weights
FOLDER = "config.json, model.safetensors, tokenizer.json"


def bring(
    project: Project, name: str, source: str, folder: Path, labels: Sequence[str] | None = None
) -> Run:
    """Makes a run of weights from elsewhere, in a new folder.

    Args:
        source: a file (state_dict, checkpoint, TorchScript, .pt2, .onnx, safetensors), `FILE:PART`
            for one of several state_dicts in a checkpoint, a Hugging Face folder, or the name of
            weights that the recipe can fetch.
        labels: of the classes, in order; None: the recipe's.

    Raises:
        UsageError: no such weights, or no labels for a classifier's.
        VestalError: a file that is none of these, holds more than tensors, or does not fit the
            model; the message names the keys.
    """
    recipe = load_recipe(project, name)
    folder.mkdir(parents=True)
    if source in recipe.weights:
        found = recipe.weights[source]()
        labels = labels or found.labels or recipe.labels
        artifacts = _save(found.module, recipe, folder)
        if found.tokenizer is not None:
            found.tokenizer.save(str(folder / "tokenizer.json"))
        return _run(
            project, name, recipe, folder, artifacts, labels, found.source, found.transforms
        )
    path, part = split_part(source)
    if not path.exists():
        names = ", ".join(recipe.weights)
        raise UsageError(
            f"no weights {source}: name a run's folder, a file ({', '.join(SUFFIXES)})"
            + (f", or one of the recipe's own: {names}" if names else "")
        )
    labels = labels or recipe.labels
    if recipe.task in CLASSIFIERS and not labels:
        raise UsageError(
            f"{name} has no labels: set labels= in its recipe.py, or pack the weights with "
            "`vestal pack --labels FILE` (one label per line, in class order)"
        )
    try:
        artifacts = _from_path(path, part, recipe, folder, labels)
    except ValueError as error:
        raise VestalError(str(error)) from None
    taken = f"{path.name}:{part}" if part else path.name
    return _run(project, name, recipe, folder, artifacts, labels, taken, "transforms")


def _from_path(
    path: Path, part: str, recipe: Recipe, folder: Path, labels: Sequence[str] | None
) -> list[str]:
    if recipe.task == LANGUAGE:
        if not path.is_dir():
            raise ValueError(f"a language model is brought as a folder ({FOLDER}), not as {path}")
        return _copy_language_model(path, folder)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, but no run (no training.json); for task {recipe.task} name the "
            f"file in it: {', '.join(f'*{suffix}' for suffix in SUFFIXES)}"
        )
    kind = _kind(path)
    if kind == "onnx":
        _copy_onnx(path, folder / saving.ARTIFACTS[kind])
        return [saving.ARTIFACTS[kind]]
    if kind in ("torchscript", "exported"):
        shutil.copyfile(path, folder / saving.ARTIFACTS[kind])
        return [saving.ARTIFACTS[kind]]
    state = read_checkpoint(path, part)
    module = recipe.make(labels)
    fill(module, state, path.name, labels)
    return _save(module, recipe, folder)


def _copy_language_model(path: Path, folder: Path) -> list[str]:
    weights = path / "model.safetensors"  # variants and adapters may stand beside it
    shards = sorted(path.glob("model*-of-*.safetensors"))
    adapters = sorted(path.glob("adapter_*.safetensors"))
    variants = sorted(set(path.glob("*.safetensors")) - {weights, *shards, *adapters})
    if weights.is_file():
        pass
    elif shards:
        raise ValueError(
            f"{path} holds {len(shards)} shards: save it as one file "
            "(model.save_pretrained(folder, max_shard_size='100GB'))"
        )
    elif len(variants) == 1:
        (weights,) = variants
    elif variants:
        raise ValueError(
            f"{path} holds {', '.join(file.name for file in variants)}: "
            "rename the one to take to model.safetensors"
        )
    elif adapters:
        raise ValueError(
            f"{path} holds an adapter without its model ({adapters[0].name}): merge them and save "
            "the model (peft: model.merge_and_unload().save_pretrained(folder))"
        )
    else:
        raise ValueError(
            f"{path} is neither a run nor a Hugging Face folder of safetensors: it has no "
            "model.safetensors (model.save_pretrained(folder) of transformers writes it)"
        )
    missing = [file for file in ("config.json", "tokenizer.json") if not (path / file).is_file()]
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(missing)}: save_pretrained(folder) of the model and "
            "of its AutoTokenizer writes them"
        )
    for file in (weights.name, *saving.LANGUAGE_MODEL):
        _check_link(path / file)
    # Only these: code that stands beside them is neither copied nor run.
    for file in saving.LANGUAGE_MODEL:
        if (path / file).is_file():
            shutil.copyfile(path / file, folder / file)
    shutil.copyfile(weights, folder / "model.safetensors")
    return ["model.safetensors"]


def _check_link(file: Path) -> None:
    """Raises ValueError for a link out of a downloaded folder; a hub's cache links its blobs."""
    places = [file.parent.resolve()]
    if file.parent.resolve().parent.name == "snapshots":
        places.append(file.parent.resolve().parents[1] / "blobs")
    if not any(file.resolve().is_relative_to(place) for place in places):
        raise ValueError(
            f"{file} is a link to {file.resolve()}, outside of its folder: put a copy in its place"
        )


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


def _copy_onnx(path: Path, target: Path) -> None:
    """In one file: torch's exporter puts the weights beside it by default (`w.onnx.data`)."""
    if EXTERNAL not in path.read_bytes():
        shutil.copyfile(path, target)
        return
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # onnx's own, and protobuf's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} keeps its weights in a file beside it, which cannot be read ({reason}): bring "
            "it together with that file (w.onnx and w.onnx.data), under the names it was saved with"
        ) from None
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weights > MOST_IN_ONE:
        raise ValueError(
            f"{path} has {weights / 1e9:.1f} GB of weights, and one .onnx file holds at most 2: "
            "bring the state_dict instead, or torch.export's .pt2"
        )
    onnx.save(model, target)


def _save(module: nn.Module, recipe: Recipe, folder: Path) -> list[str]:
    by_name = [
        name for name in recipe.saves if name in ("state_dict", "safetensors", "transformers")
    ]
    # Weights by name first: other formats are made from them when they are asked for.
    return saving.save(module.eval(), by_name[:1] or ["safetensors"], folder, torch.empty(0))


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
    run = Run(
        folder=folder,
        model=name,
        task=recipe.task,
        dataset=source,
        artifacts=artifacts,
        support=support,
        figure=recipe.objective.figure,
        input_shape=_input_shape(project, name, recipe.task, transforms),
        versions=versions(),
    )
    run.write()
    return run


def _input_shape(project: Project, name: str, task: str, transforms: str) -> list[int]:
    """Of one prepared input, as the handler knows it; what tracing looks at."""
    transform = load_transform(project, name, transforms)
    if task == "regressor":
        features = handler_options(find_model(project, name)).get("features") or []
        return list(transform(torch.zeros(len(features))).shape)
    example_input = getattr(transform, "example_input", None)
    return list(example_input().shape) if example_input else []
