"""Find an archive by path, file name or model name."""

from __future__ import annotations

import json
from pathlib import Path

from vestal.errors import UsageError
from vestal.mar.layout import BILL, read_member
from vestal.mar.manifest import read_manifest
from vestal.mar.unpacking import is_unpacked
from vestal.mar.zips import BROKEN
from vestal.project import Project


def is_path_or_file(project: Project, name: str) -> bool:
    """Whether it is a path or an archive's file name in the store, not only a model's name."""
    return _by_file(project, name) is not None


def find_archive(project: Project, name: str, version: str | None = None) -> Path:
    """Find an archive by its path (.mar or unpacked folder), or in the model store.

    In the store, it is named by its file (`mnist-1.0`, with or without .mar) or by its model, with
    a version if there are several.

    Raises:
        UsageError: it does not exist, cannot be read, or has another version; the message names
            those that exist.
    """
    archive = _by_file(project, name)
    if archive is not None:
        if version is not None and (own := read_manifest(archive).version) != version:
            raise UsageError(
                f"{archive} has version {own}, which contradicts --version {version}. Omit one of "
                "them"
            )
        return archive
    return find_stored(project.model_store, name, version)


def find_stored(store: Path, name: str, version: str | None = None) -> Path:
    """Find an archive in a store by its file name, with or without .mar, or by its model's name.

    Raises:
        UsageError: the store holds no such archive, or several versions of the model.
    """
    for file in (name, f"{name}.mar"):
        if version is None and file.endswith(".mar") and (store / file).is_file():
            return store / file
    if (store / f"{name}-{version}.mar").is_file():
        return store / f"{name}-{version}.mar"
    known = sorted(archive.name for archive in store.glob("*.mar"))
    versions = [file for file in known if _is_of(store / file, name)]
    if len(versions) == 1 and version is None:
        return store / versions[0]
    if versions:
        names = ", ".join(file.removesuffix(".mar") for file in versions)
        wrong = f"no version {version} of {name}" if version else f"several versions of {name}"
        raise UsageError(f"{store} holds {wrong}: name one of {names}")
    contents = f"holds {', '.join(known)}" if known else "is empty; `vestal pack` adds an archive"
    raise UsageError(f"no archive {name}: there is no such path, and {store} {contents}")


def _by_file(project: Project, name: str) -> Path | None:
    path, store = project.path(name), project.model_store
    if path.is_file() or is_unpacked(path):
        return path
    stored = [store / file for file in (name, f"{name}.mar") if "/" not in file]
    return next((file for file in stored if file.is_file()), None)


def _is_of(archive: Path, model: str) -> bool:
    """Whether its manifest names the model: mnist-half-1.0.mar is not a version of mnist."""
    try:
        return archive.name.startswith(f"{model}-") and read_manifest(archive).name == model
    except UsageError:
        return False


def training_dataset_of(archive: Path) -> str | None:
    """The data set in the archive's bill of materials; None if it names none.

    Raises:
        UsageError: the archive or its bill cannot be read.
    """
    try:
        bill = json.loads(read_member(archive, BILL) or b"{}")
        dataset = bill.get("training", {}).get("dataset")
    except (OSError, AttributeError, RecursionError, *BROKEN) as error:
        raise UsageError(f"{BILL} of {archive} cannot be read: {error}") from None
    return str(dataset) if dataset else None
