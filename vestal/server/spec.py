"""Which archives to serve: `NAME=ARCHIVE` as the user says it, or the newest of each model."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from vestal.archive.manifests import read_manifest
from vestal.errors import UsageError, VestalError

_NAME = re.compile(r"[\w.-]+", re.ASCII)
_MANIFEST = "MAR-INF/MANIFEST.json"


@dataclass(frozen=True)
class ModelSpec:
    """One version to serve. `archive` lies in the model store; `version` is its manifest's."""

    name: str
    version: str
    archive: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def find_models(wanted: Sequence[str | ModelSpec], store: Path) -> list[ModelSpec]:
    """What to serve, in the order of registration: the first version of a model is its default.

    `wanted`: `NAME=ARCHIVE` or `ARCHIVE`; nothing means the newest version of every model.
    Raises UsageError where one is not in the store or named twice, VestalError where one is no
    archive or the store is empty.
    """
    if not store.is_dir():
        raise VestalError(
            f"there is no model store {store}: make an archive first (`vestal pack MODEL`) "
            "or say where they are (--model-store DIR)"
        )
    if not wanted:
        return _newest(store)
    specs = [each if isinstance(each, ModelSpec) else _named(each, store) for each in wanted]
    for index, spec in enumerate(specs):
        for other in specs[:index]:
            if (spec.name, spec.version) == (other.name, other.version):
                raise UsageError(
                    f"{spec} is named twice ({other.archive.name} and {spec.archive.name}): "
                    "name one of them, or give one another name (NAME=ARCHIVE)"
                )
    return specs


def read_spec(archive: Path, name: str | None = None) -> ModelSpec:
    """Reads the manifest of an archive; `name` overrides its model name.

    Raises VestalError where the file is not a model archive, UsageError where the name cannot be.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            model = read_manifest(content.read(_MANIFEST))["model"]
        manifest_name, version = str(model["modelName"]), str(model["modelVersion"])
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise VestalError(
            f"{archive} is not a model archive ({_short(error)}): pack it again or remove it"
        ) from None
    for what, value in (("name", name or manifest_name), ("version", version)):
        if not _NAME.fullmatch(value):  # it becomes a part of an address
            raise UsageError(
                f"{archive}: the model {what} is {value!r}, expected letters, digits, `_`, `-`, `.`"
            )
    return ModelSpec(name or manifest_name, version, archive)


def _named(text: str, store: Path) -> ModelSpec:
    name, equals, file = text.rpartition("=")
    if not file or (equals and not name):
        raise UsageError(f"--models {text!r}: expected NAME=ARCHIVE or ARCHIVE")
    # TorchServe registers by file name in the store; by URL it would delete the archive when the
    # model is unregistered.
    path = Path(file)
    if len(path.parts) > 1:
        if path.absolute().parent.resolve() != store.resolve():
            raise UsageError(
                f"{file} is not in the model store {store}: copy it there, "
                "or say --model-store for the folder it is in"
            )
        path = Path(path.name)
    archive = store / path
    if not archive.is_file():
        there = ", ".join(sorted(each.name for each in store.glob("*.mar"))) or "no archive"
        raise UsageError(f"there is no {path} in the model store {store}; it holds {there}")
    return read_spec(archive, name or None)


def _newest(store: Path) -> list[ModelSpec]:
    newest: dict[str, ModelSpec] = {}
    for archive in sorted(store.glob("*.mar")):
        spec = read_spec(archive)
        best = newest.get(spec.name)
        if best is not None and best.version == spec.version:
            raise VestalError(
                f"{best.archive.name} and {archive.name} in {store} are both {spec}: "
                "remove one, or name what to serve with --models"
            )
        if best is None or _order(spec.version) > _order(best.version):
            newest[spec.name] = spec
    if not newest:
        raise VestalError(
            f"the model store {store} holds no archive: make one first (`vestal pack MODEL`)"
        )
    return list(newest.values())


def _order(version: str) -> tuple[bool, Version, str]:
    """Versions by their numbers; what is no version number comes before all that are."""
    try:
        return True, Version(version), version
    except InvalidVersion:
        return False, Version("0"), version


def _short(error: Exception) -> str:
    return f"it has no {_MANIFEST}" if isinstance(error, KeyError) else str(error)
