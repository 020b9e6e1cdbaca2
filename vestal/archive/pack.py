"""Pack weights into an archive that does not need Vestal.

An archive has everything that a worker needs in addition to TorchServe, torch and the packages in
its bill of materials: the handler, all of `vestal_handlers`, weights, labels, transforms,
model-config.yaml, and one sample input with its prediction. The same inputs give the same bytes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestal.archive.stage import add_bill
from vestal.archive.staging import stage_with_sample
from vestal.archive.weights import find_weights, models_for
from vestal.errors import UsageError, VestalError
from vestal.files.storage import scratch_folder
from vestal.mar.index import add_entry, sha256_of, update_index
from vestal.mar.layout import CONFIG, HANDLER, MANIFEST
from vestal.mar.sample import tolerance_of
from vestal.model_folders import NAME
from vestal.project import Project
from vestal.runs import RECORD
from vestal_handlers.labels import shared_labels

if TYPE_CHECKING:
    from vestal.archive.optimizing import Optimization
    from vestal.optimize.data import OptimizationData, ReadInputs

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest in a zip


@dataclass(frozen=True)
class Packed:
    """An archive in the model store.

    Attributes:
        new: the store did not have this archive with the same bytes.
        source: path of the training, or origin of imported weights.
        replaced: index entry of the archive that was replaced, or only its sha256.
        no_sample: why the archive has no sample; None if it has one.
        warnings: sentences about the weights and their labels.
        task: of a Hugging Face folder that has no model folder.
        optimization: what the optimized weights were compared with; None: they were not.
    """

    archive: Path
    sha256: str
    new: bool
    source: str
    replaced: Mapping[str, Any] | None = None
    no_sample: str | None = None
    warnings: Sequence[str] = ()
    task: str | None = None
    optimization: Optimization | None = None


def pack(
    project: Project,
    name: str,
    *,
    version: str,
    weights: str | Path | None = None,
    engine: str | None = None,
    precision: str | None = None,
    labels: Sequence[str] | None = None,
    sample: Path | None = None,
    force: bool = False,
    task: str | None = None,
    base: Path | None = None,
    data: OptimizationData | None = None,
    read: ReadInputs | None = None,
) -> Packed:
    """Make `model_store/<name>-<version>.mar`.

    Args:
        name: of a model folder; for a Hugging Face folder it may be a new one.
        weights: a training's folder, a file or folder from another source, or a name that the
            recipe defines; None: the newest training.
        engine: weights are converted to its format if necessary.
        precision: None: the one in model-config.yaml.
        labels: for weights from another source, in place of the recipe's.
        sample: the input that is packed with its prediction; None: one of the test split, or the
            handler's `example()`.
        force: replace an archive of this version that differs.
        task: of a Hugging Face folder without a model folder; None: by its architecture.
        base: the Hugging Face folder that an adapter was trained for.
        data: inputs to calibrate int8 with, and to compare the archive with its weights in fp32.
            None: those of the weights' data set for int8, no comparison for other precisions.
        read: reads the inputs in a file or folder of `data`.

    Raises:
        UsageError: model, engine, weights or sample are unknown, name or version are invalid, or
            there is too little data for int8.
        VestalError: the training is incomplete, or from another project with different code; the
            handler does not load, or its prediction differs from that of the weights; an optimized
            archive loses too much accuracy; or the store has a different archive of this version.
    """
    if sample is not None and not sample.is_file():
        raise UsageError(f"no file {sample}: --sample expects one input of the model")
    if not NAME.fullmatch(version):
        raise UsageError(
            f"version {version!r} cannot be part of a file name and a URL. "
            "Use letters, digits, dots, dashes and underscores (1.0)"
        )
    if precision is not None:
        tolerance_of(precision, engine or "eager")  # raises an error if the precision is unknown
    store = project.model_store
    store.mkdir(parents=True, exist_ok=True)
    # In the same folder as the archive, so that one rename puts it in place.
    with scratch_folder(store, ".packing-") as scratch:
        models, task = models_for(project, name, weights, task, base, scratch)
        run = find_weights(models, name, weights, scratch / "imported", labels, base)
        shared = shared_labels(run.labels or ())
        staged = stage_with_sample(
            project,
            models,
            run,
            scratch,
            name=name,
            version=version,
            engine=engine,
            precision=precision,
            sample=sample,
            data=data,
            read=read,
        )
        optimization = staged.optimization.facts() if staged.optimization else None
        add_bill(staged.folder, run, staged.artifact, staged.engine, staged.precision, optimization)
        fresh = _archive(staged.folder, name, version, staged.artifact, scratch)
        sha256 = sha256_of(fresh)
        facts = {
            "name": name,
            "version": version,
            "sha256": sha256,
            "engine": staged.engine,
            "precision": staged.precision,
            "dataset": run.dataset,
            "metrics": dict(run.test),
            **({"optimization": optimization} if optimization else {}),
            "machine": platform.node(),
            "revision": _revision(project.root),
        }
        target = store / f"{name}-{version}.mar"
        # Another pack of this version waits, and then finds this one's archive.
        with update_index(store) as index:
            before = sha256_of(target) if target.exists() else None
            if before not in (None, sha256) and not force:
                raise VestalError(
                    f"{target} exists with other content (sha256 {str(before)[:12]}, the new "
                    f"one has {sha256[:12]}). Use another --version, or --force to replace it"
                )
            replaced = None
            if before != sha256:
                known = index.get(target.name, {})
                # An entry with another sha256 describes another archive.
                replaced = known if known.get("sha256") == before else {"sha256": before}
                fresh.replace(target)
            add_entry(index, target.name, **facts)
    source = str(run.folder)
    if run.folder == scratch / "imported":
        source = str(weights) if (Path(str(weights)) / RECORD).is_file() else run.dataset
    return Packed(
        target,
        sha256,
        before != sha256,
        source,
        replaced if before else None,
        staged.no_sample,
        [shared] if shared else [],
        task,
        staged.optimization,
    )


def _revision(root: Path) -> str | None:
    """Return the git revision, with -dirty if files have changed; None without git."""
    git = shutil.which("git")
    if git is None:
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(
        [git, "-C", str(root), *describe], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _archive(staged: Path, name: str, version: str, artifact: str, scratch: Path) -> Path:
    """Pack with torch-model-archiver, then sort the members and remove the time."""
    shutil.rmtree((staged / MANIFEST).parent)  # torch-model-archiver writes its own
    own = {artifact, HANDLER, CONFIG}
    rest = scratch / "rest"
    rest.mkdir()
    for entry in list(staged.iterdir()):
        if entry.name not in own:
            entry.rename(rest / entry.name)
    # Paths relative to the working directory: it splits a path at commas.
    arguments = {
        "--model-name": name,
        "--version": version,
        "--handler": f"{staged.name}/{HANDLER}",
        "--serialized-file": f"{staged.name}/{artifact}",
        "--config-file": f"{staged.name}/{CONFIG}",
        # The folder's contents go to the archive's root; subfolders are kept.
        "--extra-files": rest.name,
        "--export-path": ".",
        "--archive-format": "zip-store",  # compressing weights takes long and saves little
    }
    command = [sys.executable, "-P", "-m", "model_archiver.model_packaging"]
    # torch-model-archiver deletes <tmp>/<model name>, so it gets its own temporary folder.
    temporary = scratch.absolute() / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        command + [word for pair in arguments.items() for word in pair],
        cwd=scratch,
        env={**os.environ, "TMPDIR": str(temporary)},
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
        for member in sorted(source.infolist(), key=lambda member: member.filename):
            entry = zipfile.ZipInfo(member.filename, FIXED_TIME)
            entry.external_attr = 0o644 << 16
            if member.filename == MANIFEST:
                manifest = {**json.loads(source.read(member)), "createdOn": "01/01/1980 00:00:00"}
                sink.writestr(entry, json.dumps(manifest, indent=2) + "\n")
                continue
            entry.file_size = member.file_size  # files over 2 GiB need another header
            with source.open(member) as data, sink.open(entry, "w") as copied:
                shutil.copyfileobj(data, copied, 1 << 20)
    return target
