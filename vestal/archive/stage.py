"""Fill the folder that becomes an archive, and write its bill of materials."""

from __future__ import annotations

import ast
import json
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import yaml

import vestal_handlers
from vestal.archive.sources import BASE, follow_imports, imports_in, loaded_by_name, parse
from vestal.errors import UsageError
from vestal.mar.index import sha256_of
from vestal.mar.layout import BILL, CONFIG, HANDLER, MANIFEST
from vestal.mar.manifest import Manifest, read_manifest
from vestal.model_folders import find_model, handler_options
from vestal.optimize.convert import BY_ENGINE, artifact_for
from vestal.project import Project
from vestal.runs import Run
from vestal_handlers.engines import BY_SUFFIX

# Packages that an archive needs: always, by task, by the artifact's suffix.
PACKAGES = ("torch", "numpy", "pyyaml")
BY_TASK = {
    "image_classifier": ("torchvision", "pillow"),
    "text_generator": ("transformers", "tokenizers", "safetensors"),
}
BY_ARTIFACT = {
    ".onnx": ("onnxruntime",),
    ".safetensors": ("safetensors",),
    ".xml": ("openvino",),
}
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
    calibration: Path | None = None,
    careful: bool = False,
    reference: Callable[[], Path] | None = None,
    own_engine: bool = True,
    **handler: Any,
) -> str:
    """Fill a new folder with the contents of an archive, without sample and bill of materials.

    Args:
        engine: None: the run's first artifact, and the engine in model-config.yaml.
        precision: None: the one in model-config.yaml.
        calibration, careful, reference: see `artifact_for`.
        own_engine: use the engine in model-config.yaml.
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
    source = run.folder / run.artifacts[0]
    if engine in BY_ENGINE:
        source = artifact_for(
            run, engine, folder, stage=reference, calibration=calibration, careful=careful
        )
    elif engine is not None and not (home / f"{engine}.py").is_file():
        raise UsageError(f"unknown engine {engine!r}: expected one of {', '.join(BY_ENGINE)}")
    artifact = source.name
    if source.parent == run.folder:
        shutil.copyfile(source, folder / artifact)
    for file in run.support:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.folder / file, folder / file)
    options = {"engine": engine, "precision": precision, **handler}
    options = {key: value for key, value in options.items() if value is not None}
    write_config(
        home / CONFIG, folder / CONFIG, options if own_engine else {"engine": None, **options}
    )
    module = f"{handler_options(folder).get('engine')}.py"
    if (home / module).is_file() and not (folder / module).exists():
        shutil.copyfile(home / module, folder / module)  # it may be newer than the training
    _write_handler(home, folder, run.task)
    Manifest(name, version, HANDLER, serialized_file=artifact, config_file=CONFIG).write(folder)
    return artifact


def write_config(source: Path, target: Path, options: Mapping[str, Any]) -> None:
    """Copy a model-config.yaml; `options` replace those under `handler:`, None removes one.

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
        merged = {**(config.get("handler") or {}), **options}
        config["handler"] = {key: value for key, value in merged.items() if value is not None}
        text = yaml.safe_dump(config, sort_keys=False)
    target.write_text(text, "utf-8")


def add_bill(
    folder: Path,
    run: Run,
    artifact: str,
    engine: str,
    precision: str,
    optimization: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
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
        **({"optimization": dict(optimization)} if optimization else {}),
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
