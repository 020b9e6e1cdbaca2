"""Find an archive by path, file name or model name, and read its manifest."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import yaml

from vestal.errors import UsageError, VestalError
from vestal.mar.layout import BILL, MANIFEST, served_folder
from vestal.mar.manifest import read_manifest
from vestal.mar.unpacking import is_unpacked
from vestal.project import Project


def is_path_or_file(project: Project, given: str) -> bool:
    """Whether it is a path, or an archive's file name in the store: not only a model's name."""
    return _named(project, given) is not None


def find_archive(project: Project, given: str, version: str | None = None) -> Path:
    """The archive that is meant: a path (.mar or unpacked folder), or one of the model store.

    In the store it is named by its file (`mnist-1.0`, with or without .mar), or by its model, with
    a version where there are several.

    Raises:
        UsageError: there is none, or it is of another version; the message names those there are.
        VestalError: it cannot be read, and a version is asked for.
    """
    archive = _named(project, given)
    if archive is not None:
        if version is not None and (own := model_of(archive)[1]) != version:
            raise UsageError(
                f"{archive} is of version {own}, and --version says {version}: leave one of the "
                "two out"
            )
        return archive
    return find_stored(project.model_store, given, version)


def find_stored(store: Path, given: str, version: str | None = None) -> Path:
    """The archive of a store: by file name, with or without .mar, or by its model's name.

    Raises:
        UsageError: the store holds no such archive, or several versions of the model.
    """
    for name in (given, f"{given}.mar"):
        if version is None and name.endswith(".mar") and (store / name).is_file():
            return store / name
    if (store / f"{given}-{version}.mar").is_file():
        return store / f"{given}-{version}.mar"
    known = sorted(archive.name for archive in store.glob("*.mar"))
    versions = [name for name in known if _is_of(store / name, given)]
    if len(versions) == 1 and version is None:
        return store / versions[0]
    if versions:
        names = ", ".join(name.removesuffix(".mar") for name in versions)
        wrong = f"no version {version} of {given}" if version else f"several versions of {given}"
        raise UsageError(f"{store} holds {wrong}: name one of {names}")
    held = f"holds {', '.join(known)}" if known else "is empty; `vestal pack` makes an archive"
    raise UsageError(f"no archive {given}: there is no such path, and {store} {held}")


def _named(project: Project, given: str) -> Path | None:
    """By its path, or by its file's name in the store."""
    path, store = project.path(given), project.model_store
    if path.is_file() or is_unpacked(path):
        return path
    stored = [store / name for name in (given, f"{given}.mar") if "/" not in given]
    return next((file for file in stored if file.is_file()), None)


def _is_of(archive: Path, model: str) -> bool:
    """By what it says of itself: mnist-half-1.0.mar is no mnist."""
    try:
        return archive.name.startswith(f"{model}-") and model_of(archive)[0] == model
    except VestalError:
        return False


def model_of(archive: Path) -> tuple[str, str, str | None]:
    """Name and version as in the manifest, and the data set that it was trained on, if it says.

    Raises:
        VestalError: it is no archive.
    """
    try:
        model = read_manifest(_member(archive, MANIFEST) or "{}")["model"]
        bill = json.loads(_member(archive, BILL) or "{}")
        trained = bill.get("training", {}).get("dataset")
        # The archive's own name may be another: `--recipe` and the bill say what it is made of.
        return str(model["modelName"]), str(model["modelVersion"]), trained
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise VestalError(
            f"{archive} is no archive that can be read ({type(error).__name__}: {error}): expected "
            f"a .mar, or its unpacked folder, with {MANIFEST}"
        ) from None


def config_of(archive: Path) -> dict[str, Any]:
    """What its model-config.yaml says; empty where it has none.

    Raises:
        VestalError: it cannot be read.
    """
    try:
        name = json.loads(_member(archive, MANIFEST) or "{}")["model"].get("configFile")
        found = yaml.safe_load(_member(archive, name) or "") if name else {}
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, yaml.YAMLError) as error:
        raise VestalError(f"{archive} is no archive that can be read: {error}") from None
    return found if isinstance(found, dict) else {}


def _member(archive: Path, name: str) -> str | None:
    if archive.is_dir():
        file = served_folder(archive) / name
        return file.read_text("utf-8") if file.is_file() else None
    with zipfile.ZipFile(archive) as content:
        return content.read(name).decode() if name in content.namelist() else None
