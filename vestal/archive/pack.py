"""Packs weights into an archive that stands alone.

An archive holds what a worker needs beside TorchServe, torch and the packages it names: the
handler, all of `vestal_handlers`, weights, labels, transforms, model-config.yaml, one sample input
with the answer it should get, and a bill of materials. The same inputs give the same bytes.
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
from typing import Any

from vestal.archive.golden import add_golden
from vestal.archive.stage import add_bill, engine_of, stage
from vestal.errors import UsageError, VestalError
from vestal.files.storage import scratch_folder
from vestal.mar.index import enter, sha256_of, updating
from vestal.mar.layout import CONFIG, HANDLER, MANIFEST
from vestal.mar.sample import tolerance_of
from vestal.model_folders import NAME, find_model, handler_options
from vestal.project import Project
from vestal.runs import RECORD, Run, latest_run
from vestal.trust import is_own, trusted_run
from vestal_handlers.labels import shared_labels

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip can say


@dataclass(frozen=True)
class Packed:
    """An archive in the store; `new`: it was not there with these bytes before.

    `source`: where the weights are from. `replaced`: what stood there before, by its entry in the
    index, or by its sha256 alone. `no_sample`: why the archive has no sample; None where it has
    one. `warnings`: sentences about the weights and their labels.
    """

    archive: Path
    sha256: str
    new: bool
    source: str
    replaced: Mapping[str, Any] | None = None
    no_sample: str | None = None
    warnings: Sequence[str] = ()


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
) -> Packed:
    """Makes `model_store/<name>-<version>.mar`.

    Args:
        weights: a run's folder, a file or folder from elsewhere, or a name of the recipe's
            weights; None: the newest run.
        engine: what computes; the artifact is turned into its format where that can be.
        precision: what it computes in.
        labels: of weights from elsewhere, where the recipe's do not fit.
        sample: the input that is packed with its answer; None: one of the test split, or the
            handler's `example()`.
        force: replace an archive of this version that has other content.

    Raises:
        UsageError: no such model, engine or weights, or a name or version that cannot be.
        VestalError: the run is incomplete, or from outside the project with other code than the
            project's; the handler does not load with it, its answer is not
            that of the weights, or the store holds other content under this version.
    """
    find_model(project, name)
    if sample is not None and not sample.is_file():
        raise UsageError(f"no file {sample}: --sample expects one input of the model")
    if not NAME.fullmatch(version):
        raise UsageError(
            f"version {version!r} cannot be part of a file name and an address: "
            "take letters, digits, dots, dashes and underscores (1.0)"
        )
    if precision is not None:
        tolerance_of(precision, engine or "eager")  # its error, before anything is made
    store = project.model_store
    store.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the finished archive arrives there by one rename.
    with scratch_folder(store, ".packing-") as scratch:
        run = find_weights(project, name, weights, scratch / "brought", labels)
        shared = shared_labels(run.labels or ())
        staged = scratch / "staged"
        artifact = stage(
            staged, project, run, name=name, version=version, engine=engine, precision=precision
        )
        used = handler_options(staged)
        made_of = used.get("engine") or engine_of(artifact, run.task)
        in_precision = used.get("precision", "fp32")
        if run.background not in (None, background := used.get("background", "white")):
            raise UsageError(
                f"{run.folder} was trained with transparent images on {run.background}, but "
                f"handler.background in {name}'s {CONFIG} is {background}: set it to "
                f"{run.background}, or train again"
            )
        reference = staged
        if artifact != run.artifacts[0] or in_precision != "fp32":
            reference = scratch / "reference"
            stage(reference, project, run, name=name, version=version, precision="fp32")
        golden = add_golden(staged, reference, run, made_of, in_precision, sample)
        in_precision = golden.precision
        for bytecode in list(staged.rglob("__pycache__")):  # of the handler that has just answered
            shutil.rmtree(bytecode)
        add_bill(staged, run, artifact, made_of, in_precision)
        fresh = _archive(staged, name, version, artifact, scratch)
        sha256 = sha256_of(fresh)
        facts = {
            "name": name,
            "version": version,
            "sha256": sha256,
            "engine": made_of,
            "precision": in_precision,
            "dataset": run.dataset,
            "metrics": dict(run.test),
            "machine": platform.node(),
            "revision": _revision(project.root),
        }
        target = store / f"{name}-{version}.mar"
        # Another pack of this version waits, and then finds this one's archive.
        with updating(store) as index:
            before = sha256_of(target) if target.exists() else None
            if before not in (None, sha256) and not force:
                raise VestalError(
                    f"{target} exists with other content (sha256 {str(before)[:12]}, this would "
                    f"be {sha256[:12]}): take another --version, or --force to replace it"
                )
            replaced = None
            if before != sha256:
                known = index.get(target.name, {})
                # An entry of other bytes says nothing of these.
                replaced = known if known.get("sha256") == before else {"sha256": before}
                fresh.replace(target)
            enter(index, target.name, **facts)
    source = str(run.folder)
    if run.folder == scratch / "brought":
        source = str(weights) if (Path(str(weights)) / RECORD).is_file() else run.dataset
    return Packed(
        target,
        sha256,
        before != sha256,
        source,
        replaced if before else None,
        golden.missing,
        [shared] if shared else [],
    )


def find_weights(
    project: Project,
    name: str,
    weights: str | Path | None,
    folder: Path,
    labels: Sequence[str] | None = None,
) -> Run:
    """The run that is meant; what is from elsewhere becomes one, in `folder`, with no code of it.

    Raises:
        UsageError, VestalError: as from `import_weights` and `trusted_run`.
    """
    if weights is None and not (find_model(project, name) / "recipe.py").is_file():
        raise UsageError(
            f"{name} has no recipe.py to be trained with: pass its weights with --weights FILE"
        )
    given = Path(weights) if weights is not None else latest_run(project, name)
    if (given / RECORD).is_file() or weights is None:
        run = Run.read(given)
        if is_own(project, given):
            return run
        from vestal.recipes.recipe import load_recipe

        return trusted_run(project, run, load_recipe(project, run.model).task, folder)
    from vestal.weights.import_weights import import_weights

    return import_weights(project, name, str(weights), folder, labels)


def _revision(root: Path) -> str | None:
    """The git revision of the project, where it has one; with -dirty where files are changed."""
    git = shutil.which("git")
    if git is None:
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(
        [git, "-C", str(root), *describe], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _archive(staged: Path, name: str, version: str, artifact: str, scratch: Path) -> Path:
    """torch-model-archiver makes it; then it is written anew, sorted and without the time."""
    shutil.rmtree((staged / MANIFEST).parent)  # the archiver writes its own
    own = {artifact, HANDLER, CONFIG}
    rest = scratch / "rest"
    rest.mkdir()
    for entry in list(staged.iterdir()):
        if entry.name not in own:
            entry.rename(rest / entry.name)
    # Names below the folder that it runs in: it takes a comma for the end of a path.
    arguments = {
        "--model-name": name,
        "--version": version,
        "--handler": f"{staged.name}/{HANDLER}",
        "--serialized-file": f"{staged.name}/{artifact}",
        "--config-file": f"{staged.name}/{CONFIG}",
        # A folder is flattened into the archive's root, its own folders stay.
        "--extra-files": rest.name,
        "--export-path": ".",
        "--archive-format": "zip-store",  # weights do not shrink, and trying takes long
    }
    command = [sys.executable, "-P", "-m", "model_archiver.model_packaging"]
    # The archiver deletes and fills <tmp>/<model name>: a temp folder of our own keeps that ours.
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
            entry.file_size = member.file_size  # past 2 GiB it needs another header
            with source.open(member) as data, sink.open(entry, "w") as copied:
                shutil.copyfileobj(data, copied, 1 << 20)
    return target
