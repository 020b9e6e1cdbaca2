"""Packages: what an archive's imports need, against what it declares and what is installed."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable
from functools import cache
from importlib import metadata
from pathlib import PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement

from vestal.archive.imports import (
    BASE,
    WORKER,
    Import,
    follow,
    imports_of,
    is_installed,
    loaded_by_name,
)
from vestal.archive.sources import parse
from vestal.checking.bill import Bill
from vestal.checking.handlers import STOCK, Handler, stock_handler
from vestal.checking.manifest import Manifest
from vestal.mar.findings import Findings
from vestal.mar.opening import TEXT_LIMIT, Contents

# Packages that handlers are known to import, by their import name: where one is not installed here
# it is no module that was forgotten.
_KNOWN_AS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "google": "protobuf",
    "grpc": "grpcio",
    **{
        name: name.replace("_", "-")
        for name in (
            *(
                "accelerate",
                "aiohttp",
                "albumentations",
                "boto3",
                "captum",
                "datasets",
                "deepspeed",
            ),
            *(
                "diffusers",
                "fastapi",
                "grpc",
                "httpx",
                "huggingface_hub",
                "intel_extension_for_pytorch",
            ),
            *("jieba", "jax", "kornia", "librosa", "lightning", "matplotlib", "nltk", "numba"),
            *(
                "onnx",
                "onnxruntime",
                "open_clip",
                "openvino",
                "optimum",
                "orjson",
                "pandas",
                "peft",
            ),
            *(
                "pyarrow",
                "pydantic",
                "pytorch_lightning",
                "regex",
                "requests",
                "safetensors",
                "scipy",
            ),
            *(
                "sentence_transformers",
                "sentencepiece",
                "soundfile",
                "spacy",
                "tensorflow",
                "tensorrt",
            ),
            *("tiktoken", "timm", "tokenizers", "torch_geometric", "torch_tensorrt", "torchaudio"),
            *("torchtext", "torchvision", "tqdm", "transformers", "ultralytics", "vllm", "xgboost"),
        )
    },
}


def check_imports(
    contents: Contents,
    manifest: Manifest,
    handler: Handler,
    trees: dict[str, ast.Module],
    bill: Bill | None,
    found: Findings,
) -> None:
    """Every import that a worker would run, from the root's files on."""
    roots = {name for name in (handler.file, manifest.model_file) if name}
    if bill:
        roots |= loaded_by_name(trees, bill.engine)
    outside, missing = follow(trees, roots, contents.names)
    for lost in missing:
        if not lost.said.guarded:
            found.error(
                "import-missing",
                f"{lost.said.file}:{lost.said.line}",
                f"{lost.reason}: the load fails with an ImportError",
                "pack that module too, with its folder, or import it by its full name",
            )
    _check_shadowing(contents, manifest, trees, found)
    if handler.file is None:
        outside += _stock_imports(manifest.handler)
    required = _requirements(contents, manifest, found)
    declared = {_plain(name) for name in bill.packages} if bill else required
    seen: set[str] = set()
    for said in outside:
        if not said.guarded and said.top not in seen:
            seen.add(said.top)
            _check_package(said, declared, bill is not None, found)


def _check_package(said: Import, declared: set[str], binding: bool, found: Findings) -> None:
    where = f"{said.file}:{said.line}"
    if said.top in sys.stdlib_module_names or said.top in BASE or said.top == "__main__":
        return
    distributions = _distributions(said.top)
    if binding and not distributions & (declared | _brought_by(frozenset(declared))):
        found.error(
            "import-undeclared",
            where,
            f"it imports {said.top}, and the bill of materials names no package that brings it: "
            "a server that installs what the bill says cannot load the archive",
            f"pack it again with {min(distributions)} among its packages",
        )
    elif is_installed(said.top) or (not binding and distributions & declared):
        return
    elif binding or said.top in _KNOWN_AS:
        found.warning(
            "import-missing",
            where,
            f"it imports {said.top}, which is not installed here",
            f"pip install {min(distributions)} here to check it, and where it is served",
        )
    else:
        found.error(
            "import-missing",
            where,
            f"it imports {said.top}, which is neither in the archive nor installed here, nor named "
            "in a requirements file: the load fails with an ImportError",
            f"pack {said.top}.py too (--extra-files); a package is installed here to check it, or "
            "named in a requirements file (--requirements-file)",
        )


def _check_shadowing(
    contents: Contents, manifest: Manifest, trees: dict[str, ast.Module], found: Findings
) -> None:
    wanted = {said.top for file, tree in trees.items() for said in imports_of(file, tree)}
    wanted.add(manifest.handler_module)
    for name in contents.names:
        path = PurePosixPath(name)
        is_package = path.name == "__init__.py" and len(path.parts) == 2
        if not is_package and (path.suffix != ".py" or len(path.parts) != 1):
            continue
        module = path.parts[0] if is_package else path.stem
        if module in WORKER:
            add = found.error
            meaning = (
                "the archive's folder comes before the installed packages on a worker's path: "
                f"every import of {module} gets this file"
            )
        elif module in sys.stdlib_module_names:
            used = module in wanted or name == manifest.model_file
            add = found.error if used else found.warning
            meaning = (
                f"Python has a module {module}: where that is imported already this file is "
                "never found, and elsewhere it takes the place of Python's"
            )
        else:
            continue
        add("shadowing", name, meaning, f"rename it, for example my_{module}")


def _stock_imports(handler: str) -> list[Import]:
    """What a handler of TorchServe imports, itself or through its bases."""
    outside, waiting, seen = [], [handler], set()
    while waiting:
        name = waiting.pop()
        source = stock_handler(name)
        if source is None or name in seen:
            continue
        seen.add(name)
        for said in imports_of(f"{STOCK}.{name}", parse(source.read_bytes())):
            module = said.module.removeprefix(f"{STOCK}.")
            if said.level or module != said.module:
                waiting.append(module)
            else:
                outside.append(said)
    return outside


def _requirements(contents: Contents, manifest: Manifest, found: Findings) -> set[str]:
    """The packages that a requirements file of the archive names."""
    name = manifest.requirements
    if name is None:
        return set()
    found.note(
        "requirements-ignored",
        name,
        "TorchServe installs these packages only with install_py_dep_per_model=true",
        "install them where it is served, or set that in config.properties",
    )
    text = contents.path(name).read_bytes()[:TEXT_LIMIT].decode("utf-8", "replace")
    return set(_requirement_names(text.splitlines()))


def _requirement_names(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        text = line.partition("#")[0].strip()
        try:
            yield _plain(Requirement(text).name)
        except InvalidRequirement:
            continue  # an option, an address, a path: no name to go by


@cache
def _installed() -> dict[str, set[str]]:
    found = metadata.packages_distributions()
    return {module: {_plain(name) for name in names} for module, names in found.items()}


def _distributions(module: str) -> set[str]:
    """Names under which a package that brings this module may be declared."""
    here = _installed().get(module, set())
    return here or {_plain(_KNOWN_AS.get(module, module))}


@cache
def _brought_by(declared: Collection[str]) -> set[str]:
    """What the declared packages require themselves, as far as they are installed here."""
    brought: set[str] = set()
    for name in declared:
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        brought.update(
            _requirement_names(line.partition(";")[0] for line in required if "extra" not in line)
        )
    return brought


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
