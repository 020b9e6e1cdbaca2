"""Fill the folder that becomes an archive, and write its bill of materials."""

from __future__ import annotations

import ast
import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import yaml

import vestal_handlers
from vestal.archive.convert import artifact_for
from vestal.archive.sources import BASE, follow_imports, imports_in, loaded_by_name, parse
from vestal.errors import UsageError
from vestal.mar.index import sha256_of
from vestal.mar.layout import BILL, CONFIG, HANDLER, MANIFEST
from vestal.mar.manifest import Manifest, read_manifest
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.runs import Run
from vestal_handlers.engines import BY_SUFFIX

# Packages that an archive needs: always, by task, by the artifact's suffix.
PACKAGES = ("torch", "numpy", "pyyaml")
BY_TASK = {
    "image_classifier": ("torchvision", "pillow"),
    "text_generator": ("transformers", "tokenizers", "safetensors"),
}
BY_ARTIFACT = {".onnx": ("onnxruntime",), ".safetensors": ("safetensors",)}
OPTIONAL = ("captum", "orjson")  # for explanations, and for faster parsing of JSON


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
    """Fill a new folder with the contents of an archive, without sample and bill of materials.

    Args:
        engine: None: the run's first artifact, and the engine in model-config.yaml.
        precision: None: the one in model-config.yaml.
        handler: more options, which replace those in model-config.yaml.

    Returns:
        The artifact's file name.

    Raises:
        UsageError: model or engine are unknown, or model-config.yaml cannot be read.
        VestalError: the run has no weights for the engine.
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
    Manifest(name, version, HANDLER, serialized_file=artifact, config_file=CONFIG).write(folder)
    return artifact


def write_config(source: Path, target: Path, options: Mapping[str, Any]) -> None:
    """Copy a model-config.yaml; `options` replace those under `handler:`.

    Raises:
        UsageError: the file is missing or not a YAML mapping.
    """
    try:
        text = source.read_text("utf-8")
        config = yaml.safe_load(text)
        if not isinstance(config, dict):
            raise yaml.YAMLError("expected keys and values")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{source} cannot be read: {error}") from None
    if options:
        config["handler"] = {**(config.get("handler") or {}), **options}
        text = yaml.safe_dump(config, sort_keys=False)
    target.write_text(text, "utf-8")


def add_bill(folder: Path, run: Run, artifact: str, engine: str, precision: str) -> dict[str, Any]:
    """Write the bill of materials of a staged folder: its origin, packages and files."""
    manifest = read_manifest(folder)
    files = {
        file.relative_to(folder).as_posix(): sha256_of(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_relative_to((folder / MANIFEST).parent)
    }
    bill = {
        "format": 1,
        "model": manifest.name,
        "version": manifest.version,
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


def engine_of(folder: Path, artifact: str) -> str:
    """Return the engine for an artifact's suffix; transformers for its own folders."""
    pretrained = artifact.endswith(".safetensors") and (folder / "config.json").is_file()
    return "transformers" if pretrained else BY_SUFFIX[Path(artifact).suffix]


def _packages(folder: Path, run: Run, artifact: str, engine: str) -> dict[str, str]:
    names = [*PACKAGES, *BY_TASK.get(run.task, ()), *BY_ARTIFACT.get(Path(artifact).suffix, ())]
    trees = {
        file.relative_to(folder).as_posix(): parse(file.read_bytes())
        for file in sorted(folder.rglob("*.py"))
    }
    # What is certainly imported, and whatever else the model's own files import.
    outside, _ = follow_imports(trees, loaded_by_name(trees, engine))
    needed = {each.package for each in outside} - BASE
    modules = {name.split("/")[0].removesuffix(".py") for name in trees}
    for name in (HANDLER, *run.support):
        if name in trees:
            imports = imports_in(name, ast.walk(trees[name]))
            needed |= {each.package for each in imports} - modules - {"ts", ""}
    return _versions([*names, *_providers(needed - set(sys.stdlib_module_names))])


def _providers(modules: set[str]) -> list[str]:
    """Return the names of the installed packages that contain one of these top-level modules.

    `importlib.metadata.packages_distributions` gives the same, but parses the metadata of all
    packages and makes an object of every file: seconds if torch is installed.
    """
    if not modules:
        return []
    found = [each for each in distributions() if not modules.isdisjoint(_top_level(each))]
    return [each.metadata["Name"].lower() for each in found]


def _top_level(distribution: Distribution) -> set[str]:
    """Return the names of its modules and packages, as it declares them or from its file list."""
    if declared := (distribution.read_text("top_level.txt") or "").split():
        return set(declared)
    record = distribution.read_text("RECORD") or ""
    files = (line.partition(",")[0] for line in record.splitlines())
    return {file.partition("/")[0].removesuffix(".py") for file in files if file.endswith(".py")}


def _versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in sorted(set(names)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_handler(home: Path, folder: Path, task: str) -> None:
    if (home / HANDLER).is_file():  # the model has its own
        shutil.copyfile(home / HANDLER, folder / HANDLER)
        return
    kind = "".join(part.capitalize() for part in task.split("_"))
    # TorchServe refuses a handler file that defines two classes.
    (folder / HANDLER).write_text(
        f'"""Handler for TorchServe."""\n\nfrom vestal_handlers.tasks.{task} import {kind}\n\n\n'
        f"class Handler({kind}):\n    pass\n",
        "utf-8",
    )
