"""Packs a training's run into an archive that stands alone.

An archive holds what a worker needs beside TorchServe, torch and torchvision: the handler, all of
`vestal_handlers`, weights, labels, transforms, model-config.yaml, and one sample input with the
answer it should get. The same inputs give the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import vestal_handlers
from vestal import runs
from vestal.archive.index import record, sha256_of
from vestal.archive.run import MANIFEST, LoadedArchive
from vestal.archive.sample import Sample
from vestal.errors import UsageError, VestalError
from vestal.models import NAME, find_model
from vestal.project import Project
from vestal.runs import Run

FROM_RUN = (runs.TORCHSCRIPT, runs.LABELS, runs.TRANSFORMS)
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip can say


@dataclass(frozen=True)
class Packed:
    """An archive in the store; `new`: it was not there with these bytes before."""

    archive: Path
    sha256: str
    new: bool


def pack(
    project: Project, name: str, *, version: str, weights: Path, force: bool = False
) -> Packed:
    """Makes `model_store/<name>-<version>.mar` from a run's folder.

    Args:
        weights: a folder as `vestal train` leaves it.
        force: replace an archive of this version that has other content.

    Raises:
        UsageError: no such model, or a name or version that cannot be.
        VestalError: the run is incomplete, the handler does not load with it, or the store holds
            other content under this version.
    """
    folder = find_model(project, name)
    if not NAME.fullmatch(version):
        raise UsageError(
            f"version {version!r} cannot be part of a file name and an address: "
            "take letters, digits, dots, dashes and underscores (1.0)"
        )
    run = Run.read(weights)
    store = project.model_store
    store.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the finished archive arrives there by one rename.
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=store) as scratch:
        staged = Path(scratch) / "staged"
        _stage(staged, folder, weights, run.task)
        _add_sample(staged, name, version, weights / runs.SAMPLE)
        fresh = _archive(staged, name, version, Path(scratch))
        target = store / f"{name}-{version}.mar"
        sha256 = sha256_of(fresh)
        new = not target.exists() or sha256_of(target) != sha256
        if new and target.exists() and not force:
            raise VestalError(
                f"{target} exists with other content (sha256 {sha256_of(target)[:12]}, "
                f"this would be {sha256[:12]}): take another --version, or --force to replace it"
            )
        if new:
            fresh.replace(target)
        record(
            store,
            archive=target,
            name=name,
            version=version,
            sha256=sha256,
            engine="torchscript",
            precision="fp32",
            dataset=run.dataset,
            accuracy=run.test_accuracy,
        )
    return Packed(target, sha256, new)


def _stage(staged: Path, folder: Path, weights: Path, task: str) -> None:
    package = Path(vestal_handlers.__file__).parent
    shutil.copytree(package, staged / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FROM_RUN:
        shutil.copyfile(weights / file, staged / file)
    shutil.copyfile(folder / "model-config.yaml", staged / "model-config.yaml")
    kind = "".join(part.capitalize() for part in task.split("_"))
    # TorchServe refuses a handler file in which two classes are defined: this one defines one.
    (staged / "handler.py").write_text(
        f'"""What TorchServe loads."""\n\nfrom vestal_handlers.{task} import {kind}\n\n\n'
        f"class Handler({kind}):\n    pass\n",
        "utf-8",
    )


def _add_sample(staged: Path, name: str, version: str, image: Path) -> None:
    """Asks the staged handler for the sample's answer, so a pack that cannot serve fails here."""
    manifest = staged / MANIFEST
    manifest.parent.mkdir()
    model = {
        "modelName": name,
        "modelVersion": version,
        "handler": "handler.py",
        "serializedFile": runs.TORCHSCRIPT,
        "configFile": "model-config.yaml",
    }
    manifest.write_text(json.dumps({"model": model}), "utf-8")
    data = image.read_bytes()
    with LoadedArchive(staged) as loaded:
        (answer,) = loaded.predict([data])
    if answer.status != 200:
        raise VestalError(f"the handler refuses its own sample {image}: {answer.body.decode()}")
    shutil.rmtree(manifest.parent)  # the archiver writes its own
    Sample(data, "image/png", image.name, answer.json()).write(staged)


def _archive(staged: Path, name: str, version: str, scratch: Path) -> Path:
    """torch-model-archiver makes it; then it is written anew, sorted and without the time."""
    own = {runs.TORCHSCRIPT, "handler.py", "model-config.yaml"}
    rest = scratch / "rest"
    rest.mkdir()
    for entry in staged.iterdir():
        if entry.name not in own:
            entry.rename(rest / entry.name)
    arguments = {
        "--model-name": name,
        "--version": version,
        "--handler": str(staged / "handler.py"),
        "--serialized-file": str(staged / runs.TORCHSCRIPT),
        "--config-file": str(staged / "model-config.yaml"),
        # A folder is flattened into the archive's root, its own folders stay.
        "--extra-files": str(rest),
        "--export-path": str(scratch),
    }
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    # The archiver deletes and fills <tmp>/<model name>: a temp folder of our own keeps that ours.
    done = subprocess.run(
        command + [word for pair in arguments.items() for word in pair],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    made = scratch / f"{name}.mar"
    if done.returncode or not made.is_file():
        raise VestalError(f"torch-model-archiver failed: {done.stderr.strip()[-500:]}")
    return _reproducible(made, scratch / "sorted.mar")


def _reproducible(made: Path, target: Path) -> Path:
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(target, "w") as sink:
        for member in sorted(source.namelist()):
            data = source.read(member)
            if member == MANIFEST:
                manifest = {**json.loads(data), "createdOn": "01/01/1980 00:00:00"}
                data = (json.dumps(manifest, indent=2) + "\n").encode()
            entry = zipfile.ZipInfo(member, FIXED_TIME)
            entry.external_attr = 0o644 << 16
            sink.writestr(entry, data)  # stored: weights do not shrink
    return target
