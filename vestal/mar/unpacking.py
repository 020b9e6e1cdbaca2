"""From an archive's path to its folder and its manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from vestal.errors import UsageError, VestalError
from vestal.mar.findings import Findings, Severity
from vestal.mar.layout import MANIFEST, served_folder
from vestal.mar.manifest import read_manifest
from vestal.mar.names import safe_name
from vestal.mar.opening import opened

_FILES = ("serializedFile", "modelFile", "configFile", "requirementsFile")


def is_unpacked(folder: Path) -> bool:
    """Whether it is an archive's folder, or holds one."""
    return folder.is_dir() and (served_folder(folder) / MANIFEST).is_file()


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """The folder itself, or where a .mar or a .tar.gz is unpacked to, as safely as for a check.

    Raises:
        UsageError: there is no archive, or it is none.
    """
    if archive.is_dir():
        yield served_folder(archive)
        return
    found = Findings()
    with opened(archive, found) as contents:
        if contents is None:
            errors = [each for each in found.items if each.severity == Severity.ERROR]
            reason = "; ".join(f"{each.where} {each.meaning}".strip() for each in errors)
            raise UsageError(f"{archive} cannot be unpacked: {reason} (vestal check says more)")
        yield contents.folder


def manifest_of(folder: Path, archive: Path) -> dict[str, Any]:
    """What the manifest says; `archive` is named in errors.

    Raises:
        UsageError: it is not there, names no model and handler, or a file outside of the folder.
    """
    file = folder / MANIFEST
    try:
        manifest = read_manifest(file.read_text("utf-8"))
        for key in ("modelName", "handler"):
            if type(manifest["model"][key]) is not str:
                raise ValueError(f"model.{key} is no text")
        for key in _FILES:
            name = manifest["model"].get(key)
            if name and safe_name(str(name)) is None:
                raise ValueError(f"model.{key} is {name!r:.80}, outside of the archive")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{archive} is no archive: expected a {MANIFEST} with model.modelName and "
            f"model.handler ({type(error).__name__}: {error})"
        ) from None
    return dict(manifest)


def batch_size_of(folder: Path, model: Mapping[str, Any]) -> int:
    """What model-config.yaml says; 1 where it says nothing.

    Raises:
        VestalError: it cannot be read.
    """
    config = folder / str(model.get("configFile", "no-config"))
    try:
        read = yaml.safe_load(config.read_text("utf-8")) if config.is_file() else {}
        return int((read or {}).get("batchSize", 1))
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise VestalError(f"{config.name} cannot be read: {error}") from None
