"""Import weights from other sources as a run: files in any usual format, or weights of a recipe."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from vestal.errors import UsageError, VestalError
from vestal.model_folders import find_model, handler_options
from vestal.project import Project
from vestal.recipes.recipe import Recipe, load_recipe, load_transform
from vestal.runs import RECORD, Run
from vestal.weights import hugging_face, saving
from vestal.weights.checkpoints import fill, read_checkpoint, split_part
from vestal.weights.hugging_face_copy import copy_folder
from vestal.weights.hugging_face_folder import CONFIG, labels_of

SUFFIXES = (".pt", ".pth", ".pt2", ".onnx", ".xml", ".safetensors", ".bin", ".ckpt")
OPENVINO_MODEL, OPENVINO_WEIGHTS = "model.xml", "model.bin"
LANGUAGE = "text_generator"
FROM_FOLDERS = (LANGUAGE, "custom")
CLASSIFIERS = ("image_classifier", "text_classifier")
STATE_FORMATS = ("state_dict", "safetensors", "transformers")
EXTERNAL = b"\n\x08location"  # in ONNX's protobuf: the name of the file that a tensor is in
MAX_ONNX_BYTES = 2**31 - 2**20  # protobuf's limit, less a margin for everything but weights
FOLDER = "config.json, model.safetensors, tokenizer.json"


def import_weights(
    project: Project,
    name: str,
    source: str,
    folder: Path,
    labels: Sequence[str] | None = None,
    base: Path | None = None,
) -> Run:
    """Create a run, in a new folder, from weights of another source.

    Args:
        source: a file (state_dict, checkpoint, TorchScript, .pt2, .onnx, .xml with its .bin,
            safetensors), `FILE:PART` for one of several state_dicts in a checkpoint, a Hugging
            Face folder, or a name in the recipe's `weights`.
        labels: names of the classes, in order; None: the recipe's, or those of a Hugging Face
            folder.
        base: the Hugging Face folder that an adapter was trained for.

    Raises:
        UsageError: no such weights, or no labels for a classifier.
        VestalError: another kind of file, one that holds more than tensors, or weights that do not
            fit the model; the message names the keys.
    """
    recipe = load_recipe(project, name)
    folder.mkdir(parents=True)
    transforms = "transforms"
    if source in recipe.weights:
        weights = recipe.weights[source]()
        labels = labels or weights.labels or recipe.labels
        artifacts = _save(weights.module, recipe, folder)
        if weights.tokenizer is not None:
            weights.tokenizer.save(str(folder / "tokenizer.json"))
        description, transforms = weights.source, weights.transforms
    else:
        path, part = split_part(source)
        if not path.exists():
            names = ", ".join(recipe.weights)
            raise UsageError(
                f"no weights {source}: expected the folder of a training or a file "
                f"({', '.join(SUFFIXES)})" + f", or weights of the recipe: {names}" * bool(names)
            )
        labels = labels or recipe.labels
        if recipe.task in CLASSIFIERS and not labels:
            raise UsageError(
                f"{name} has no labels: set labels= in its recipe.py, or pack the weights with "
                "`vestal pack --labels FILE` (one label per line, in class order)"
            )
        try:
            artifacts = _import_path(path, part, recipe, folder, labels, base)
            if (folder / CONFIG).is_file():
                labels = labels or labels_of(folder)
        except ValueError as error:
            raise VestalError(str(error)) from None
        description = f"{path.name}:{part}" if part else path.name
    files = saving.save_support(artifacts, find_model(project, name), folder, labels, transforms)
    files.support.extend(OPENVINO_WEIGHTS for artifact in artifacts if artifact == OPENVINO_MODEL)
    run = Run(
        folder=folder,
        model=name,
        task=recipe.task,
        dataset=description,
        **vars(files),
        figure=recipe.objective.main_metric,
        input_shape=_input_shape(project, name, recipe.task, transforms),
    )
    run.write()
    return run


def _import_path(
    path: Path,
    part: str,
    recipe: Recipe,
    folder: Path,
    labels: Sequence[str] | None,
    base: Path | None,
) -> list[str]:
    if recipe.task == LANGUAGE and not path.is_dir():
        raise ValueError(f"a language model must be a folder ({FOLDER}), but {path} is a file")
    if path.is_dir() and recipe.task in FROM_FOLDERS and hugging_face.is_folder(path):
        if recipe.task == LANGUAGE:
            hugging_face.check_folder(path, "text-generation", base)
        return [copy_folder(path, folder, base)]
    if path.is_dir() and recipe.task == LANGUAGE:
        raise ValueError(
            f"{path} is neither a training nor a Hugging Face folder: it has no "
            f"{CONFIG} (model.save_pretrained(folder) of transformers writes it)"
        )
    if path.is_dir() and hugging_face.is_folder(path):
        raise ValueError(
            f"{path} is a Hugging Face folder, but the task of this model is {recipe.task}: pack "
            "the folder under a new name"
        )
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder without {RECORD}, so it is not a training; for task "
            f"{recipe.task} pass a file: {', '.join(f'*{suffix}' for suffix in SUFFIXES)}"
        )
    kind = _kind(path)
    if kind == "onnx":
        _copy_onnx(path, folder / saving.ARTIFACTS[kind])
        return [saving.ARTIFACTS[kind]]
    if kind == "openvino":
        return [_copy_openvino(path, folder)]
    if kind in ("torchscript", "exported"):
        shutil.copyfile(path, folder / saving.ARTIFACTS[kind])
        return [saving.ARTIFACTS[kind]]
    state = read_checkpoint(path, part)
    module = recipe.make(labels)
    fill(module, state, path.name, labels)
    return _save(module, recipe, folder)


def _kind(path: Path) -> str:
    """The format, by the content of the file: .pt can be three formats."""
    if path.suffix in (".onnx", ".xml"):
        return {".onnx": "onnx", ".xml": "openvino"}[path.suffix]
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return "state_dict"
    with zipfile.ZipFile(path) as content:
        names = content.namelist()
    if any(name.endswith("archive_format") for name in names):
        return "exported"
    return "torchscript" if any("/code/" in name for name in names) else "state_dict"


def _copy_onnx(path: Path, target: Path) -> None:
    """Copy into one file: torch's exporter writes the weights to a second one (`w.onnx.data`)."""
    if EXTERNAL not in path.read_bytes():
        shutil.copyfile(path, target)
        return
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # exceptions of onnx and of protobuf
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path} has its weights in a second file, which cannot be read ({reason}): put both "
            "files (w.onnx and w.onnx.data) into one folder, with the names they were saved under"
        ) from None
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if weights > MAX_ONNX_BYTES:
        raise ValueError(
            f"{path} has {weights / 1e9:.1f} GB of weights, and one .onnx file holds at most 2: "
            "use the state_dict instead, or torch.export's .pt2"
        )
    onnx.save(model, target)


def _copy_openvino(path: Path, folder: Path) -> str:
    """Copy a model of OpenVINO, whose weights are in a second file."""
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ValueError(
            f"{path} is a model of OpenVINO, but its weights are missing: put {weights.name} into "
            "the same folder"
        )
    shutil.copyfile(path, folder / OPENVINO_MODEL)
    shutil.copyfile(weights, folder / OPENVINO_WEIGHTS)
    return OPENVINO_MODEL


def _save(module: nn.Module, recipe: Recipe, folder: Path) -> list[str]:
    """Save as a state_dict; other formats are made from it on demand."""
    formats = [name for name in recipe.formats if name in STATE_FORMATS]
    return saving.save(module.eval(), formats[:1] or ["safetensors"], folder, torch.empty(0))


def _input_shape(project: Project, name: str, task: str, transforms: str) -> list[int]:
    """The shape of a prepared input, for tracing; [] if it is not known."""
    transform = load_transform(project, name, transforms)
    if task == "regressor":
        features = handler_options(find_model(project, name)).get("features") or []
        return list(transform(torch.zeros(len(features))).shape)
    example_input = getattr(transform, "example_input", None)
    return list(example_input().shape) if example_input else []
