"""Find the archives to serve: those that the user names, or the newest version of each model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from vestal.errors import UsageError, VestalError
from vestal.mar.manifest import read_manifest
from vestal.mar.store import find_stored

_NAME = re.compile(r"[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class ModelSpec:
    """One version to serve. `archive`: its path in the model store."""

    name: str
    version: str
    archive: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class FailedArchive:
    """File name of an archive that cannot be served, and the reason."""

    archive: str
    error: VestalError


def find_models(
    requested: Sequence[str | ModelSpec], store: Path
) -> tuple[list[ModelSpec], list[FailedArchive]]:
    """Find the versions to serve; the first version of a model will be its default.

    Args:
        requested: `NAME=ARCHIVE` or `ARCHIVE`; empty for the newest version of every model.
        store: the model store.

    Returns:
        The versions, and the archives that cannot be read.

    Raises:
        UsageError: an archive is not in the store, or a version is requested twice.
        VestalError: there is no archive that can be read.
    """
    if not store.is_dir():
        raise VestalError(
            f"there is no model store {store}. Pack an archive first (`vestal pack MODEL`), or "
            "pass the folder with --model-store DIR"
        )
    specs, failed = _find_requested(requested, store) if requested else _find_newest(store)
    if not specs:
        raise no_archive_error(failed)
    return specs, failed


def no_archive_error(failed: Sequence[FailedArchive]) -> VestalError:
    """Return the error if every archive failed."""
    if len(failed) == 1:
        return failed[0].error
    return VestalError("\n".join(["no archive can be served:", *(str(f.error) for f in failed)]))


def _find_requested(
    requested: Sequence[str | ModelSpec], store: Path
) -> tuple[list[ModelSpec], list[FailedArchive]]:
    specs: list[ModelSpec] = []
    failed: list[FailedArchive] = []
    for each in requested:
        if isinstance(each, ModelSpec):
            specs.append(each)
            continue
        archive, name = _parse(each, store)
        try:
            specs.append(read_spec(archive, name))
        except UsageError:
            raise
        except VestalError as error:
            failed.append(FailedArchive(archive.name, error))
    for index, spec in enumerate(specs):
        for other in specs[:index]:
            if (spec.name, spec.version) == (other.name, other.version):
                raise UsageError(
                    f"{spec} is requested twice ({other.archive.name} and {spec.archive.name}). "
                    "Pass one of them, or serve one under another name (NAME=ARCHIVE)"
                )
    return specs, failed


def _find_newest(store: Path) -> tuple[list[ModelSpec], list[FailedArchive]]:
    newest: dict[str, ModelSpec] = {}
    ambiguous: set[str] = set()
    failed: list[FailedArchive] = []
    archives = sorted(store.glob("*.mar"))
    if not archives:
        raise VestalError(
            f"the model store {store} has no archive. Pack one first (`vestal pack MODEL`)"
        )
    for archive in archives:
        try:
            spec = read_spec(archive)
            best = newest.get(spec.name)
            if best is not None and best.version == spec.version:
                ambiguous.add(spec.name)
                raise VestalError(
                    f"{best.archive.name} and {archive.name} in {store} are both {spec}. "
                    "Remove one, or pass the archives to serve"
                )
        except VestalError as error:
            failed.append(FailedArchive(archive.name, error))
            continue
        if best is None or _order(spec.version) > _order(best.version):
            newest[spec.name] = spec
            ambiguous.discard(spec.name)
    return [spec for name, spec in newest.items() if name not in ambiguous], failed


def read_spec(archive: Path, name: str | None = None) -> ModelSpec:
    """Read the manifest of an archive; `name` replaces its model name.

    Raises:
        VestalError: the file is not a model archive.
        UsageError: the model's name or version has invalid characters.
    """
    try:
        manifest = read_manifest(archive)
    except UsageError as error:  # one damaged archive does not stop the others
        raise VestalError(str(error)) from None
    name, version = name or manifest.name, manifest.version
    for part, value in (("name", name), ("version", version)):
        if not _NAME.fullmatch(value):  # it becomes part of a URL
            raise UsageError(
                f"{archive}: the model {part} is {value!r}; "
                "expected letters, digits, `_`, `-` and `.`"
            )
    return ModelSpec(name, version, archive)


def _parse(text: str, store: Path) -> tuple[Path, str | None]:
    """Return the archive, and the model's name if the user gives one."""
    name, equals, file = text.rpartition("=")
    if not file or (equals and not name):
        raise UsageError(f"--models {text!r}: expected NAME=ARCHIVE or ARCHIVE")
    # TorchServe gets a file name in the store. If it gets a URL, it deletes the archive when the
    # model is unregistered.
    path = Path(file)
    elsewhere = path.is_file() and not (store / path.name).is_file()
    if len(path.parts) > 1 or elsewhere:
        if path.absolute().parent.resolve() != store.resolve():
            raise UsageError(
                f"{file} is not in the model store {store}. Copy it there, or pass its folder with "
                "--model-store"
            )
        path = Path(path.name)
    return find_stored(store, str(path)), name or None


def _order(version: str) -> tuple[bool, Version, str]:
    """Return a sort key: by version number; other versions come first."""
    try:
        return True, Version(version), version
    except InvalidVersion:
        return False, Version("0"), version
