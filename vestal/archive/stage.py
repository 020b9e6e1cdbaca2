"""The folder that becomes an archive: what TorchServe unpacks, and what runs here without it."""

from __future__ import annotations

import ast
import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import yaml

import vestal_handlers
from vestal.archive.convert import artifact_for
from vestal.archive.imports import BASE, follow, loaded_by_name
from vestal.archive.sources import parse
from vestal.errors import UsageError
from vestal.mar.index import sha256_of
from vestal.mar.layout import BILL, CONFIG, HANDLER, MANIFEST
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.runs import Run
from vestal_handlers.engines import BY_SUFFIX

# What an archive needs beside TorchServe's own needs: always, by task, by the artifact's suffix.
PACKAGES = ("torch", "numpy", "pyyaml")
BY_TASK = {
    "image_classifier": ("torchvision", "pillow"),
    "text_generator": ("transformers", "tokenizers", "safetensors"),
}
BY_ARTIFACT = {".onnx": ("onnxruntime",), ".safetensors": ("safetensors",)}
OPTIONAL = ("captum", "orjson")  # explanations; JSON parsed faster


def stage(
    folder: Path,
    project: Project,
    run: Run,
    *,
    name: str,
    version: str,
    engine: str | None = None,
    precision: str | None = None,
    **handler: Any,
) -> str:
    """Fills a new folder with all that an archive of a run holds but sample and bill.

    Args:
        engine: None: the run's first artifact, with what model-config.yaml says.
        precision: None: what model-config.yaml says.
        handler: further options over those of model-config.yaml.

    Returns:
        The artifact's file name.

    Raises:
        UsageError: no such model or engine, or a model-config.yaml that cannot be read.
        VestalError: the run has nothing that the engine could load.
    """
    home = find_model(project, name) if run.model == name else find_model(project, run.model)
    package = Path(vestal_handlers.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    source = artifact_for(run, engine, folder) if engine else run.folder / run.artifacts[0]
    artifact = source.name
    if source.parent == run.folder:
        shutil.copyfile(source, folder / artifact)
    for file in run.support:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.folder / file, folder / file)
    options = {"engine": engine, "precision": precision, **handler}
    write_config(
        home / CONFIG, folder / CONFIG, {k: v for k, v in options.items() if v is not None}
    )
    _write_handler(home, folder, run.task)
    manifest = folder / MANIFEST
    manifest.parent.mkdir()
    model = {
        "modelName": name,
        "modelVersion": version,
        "handler": HANDLER,
        "serializedFile": artifact,
        "configFile": CONFIG,
    }
    manifest.write_text(json.dumps({"model": model}), "utf-8")
    return artifact


def write_config(source: Path, target: Path, options: Mapping[str, Any]) -> None:
    """Copies a model-config.yaml, with options put over those under its `handler:`.

    Raises:
        UsageError: it is not there, or is no YAML mapping.
    """
    try:
        text = source.read_text("utf-8")
        config = yaml.safe_load(text)
        if not isinstance(config, dict):
            raise yaml.YAMLError("it must hold keys and values")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{source} cannot be read: {error}") from None
    if options:
        config["handler"] = {**(config.get("handler") or {}), **options}
        text = yaml.safe_dump(config, sort_keys=False)
    target.write_text(text, "utf-8")


def add_bill(folder: Path, run: Run, artifact: str, engine: str, precision: str) -> dict[str, Any]:
    """Writes the bill of materials of a staged folder: where it comes from, and what it needs."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))["model"]
    files = {
        file.relative_to(folder).as_posix(): sha256_of(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_relative_to((folder / MANIFEST).parent)
    }
    bill = {
        "format": 1,
        "model": manifest["modelName"],
        "version": manifest["modelVersion"],
        "task": run.task,
        "engine": engine,
        "precision": precision,
        "artifact": artifact,
        "built_on": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "machine": platform.machine(),
        },
        "packages": _packages(folder, run, artifact, engine),
        "optional": _versions(OPTIONAL),
        "training": {"dataset": run.dataset, "seed": run.seed, "metrics": dict(run.test)},
        "files": files,
    }
    (folder / BILL).write_text(json.dumps(bill, indent=1) + "\n", "utf-8")
    return bill


def engine_of(artifact: str, task: str) -> str:
    """The engine that an artifact's suffix says; a language model's is transformers itself."""
    return "transformers" if task == "text_generator" else BY_SUFFIX[Path(artifact).suffix]


def _packages(folder: Path, run: Run, artifact: str, engine: str) -> dict[str, str]:
    names = [*PACKAGES, *BY_TASK.get(run.task, ()), *BY_ARTIFACT.get(Path(artifact).suffix, ())]
    trees = {
        file.relative_to(folder).as_posix(): parse(file.read_bytes())
        for file in sorted(folder.rglob("*.py"))
    }
    # What `vestal check` asks for, and whatever the model's own files import.
    outside, _ = follow(trees, loaded_by_name(trees, engine))
    needed = {said.top for said in outside if not said.guarded} - BASE
    own = [trees[name] for name in (HANDLER, *run.support) if name in trees]
    needed |= _imports(own) - {name.split("/")[0].removesuffix(".py") for name in trees} - {"ts"}
    distributions = packages_distributions()
    for module in sorted(needed - set(sys.stdlib_module_names)):
        names += [name.lower() for name in distributions.get(module, [])]
    return _versions(names)


def _imports(trees: Sequence[ast.Module]) -> set[str]:
    """The top-level packages that these files import, wherever in them."""
    found = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in sorted(set(names)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_handler(home: Path, folder: Path, task: str) -> None:
    if (home / HANDLER).is_file():  # the model brings its own
        shutil.copyfile(home / HANDLER, folder / HANDLER)
        return
    kind = "".join(part.capitalize() for part in task.split("_"))
    # TorchServe refuses a handler file in which two classes are defined: this one defines one.
    (folder / HANDLER).write_text(
        f'"""What TorchServe loads."""\n\nfrom vestal_handlers.tasks.{task} import {kind}\n\n\n'
        f"class Handler({kind}):\n    pass\n",
        "utf-8",
    )
