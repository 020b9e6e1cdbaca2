"""Which archives to serve: `NAME=ARCHIVE` as the user says it, or the newest of each model."""

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
    """One version to serve. `archive` lies in the model store; `version` is its manifest's."""

    name: str
    version: str
    archive: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Failed:
    """An archive that is not served, by its file name, and why not."""

    archive: str
    error: VestalError


def find_models(
    wanted: Sequence[str | ModelSpec], store: Path, failed: list[Failed] | None = None
) -> list[ModelSpec]:
    """What to serve, in the order of registration: the first version of a model is its default.

    `wanted`: `NAME=ARCHIVE` or `ARCHIVE`; nothing means the newest version of every model.
    `failed`: gets the archives that cannot be read; without it the first one is an error.
    Raises UsageError where one is not in the store or named twice, VestalError where none is a
    readable archive or the store is empty.
    """
    reading = _Reading(failed)
    if not store.is_dir():
        raise VestalError(
            f"there is no model store {store}: make an archive first (`vestal pack MODEL`) "
            "or say where they are (--model-store DIR)"
        )
    if not wanted:
        return _newest(store, reading)
    specs = []
    for each in wanted:
        if isinstance(each, ModelSpec):
            specs.append(each)
        else:
            archive, name = _named(each, store)
            specs += reading.read(archive, name, fatal=UsageError)
    for index, spec in enumerate(specs):
        for other in specs[:index]:
            if (spec.name, spec.version) == (other.name, other.version):
                raise UsageError(
                    f"{spec} is named twice ({other.archive.name} and {spec.archive.name}): "
                    "name one of them, or give one another name (NAME=ARCHIVE)"
                )
    if not specs:
        raise none_served(reading.failed)
    return specs


def none_served(failed: Sequence[Failed]) -> VestalError:
    """The error where every archive failed."""
    if len(failed) == 1:
        return failed[0].error
    return VestalError("\n".join(["no archive can be served:", *(str(f.error) for f in failed)]))


class _Reading:
    """Reads archives; those that cannot be read are collected, or raised where nobody collects."""

    def __init__(self, failed: list[Failed] | None) -> None:
        self._raises = failed is None
        self.failed: list[Failed] = [] if failed is None else failed

    def read(
        self, archive: Path, name: str | None = None, fatal: type[VestalError] | None = None
    ) -> list[ModelSpec]:
        """One spec, or none; errors of the type `fatal` are raised in any case."""
        try:
            return [read_spec(archive, name)]
        except VestalError as error:
            if fatal is not None and isinstance(error, fatal):
                raise
            self.fail(archive, error)
            return []

    def fail(self, archive: Path, error: VestalError) -> None:
        if self._raises:
            raise error
        self.failed.append(Failed(archive.name, error))


def read_spec(archive: Path, name: str | None = None) -> ModelSpec:
    """Reads the manifest of an archive; `name` overrides its model name.

    Raises VestalError where the file is not a model archive, UsageError where the name cannot be.
    """
    try:
        manifest = read_manifest(archive)
    except UsageError as error:  # one damaged archive does not stop the others
        raise VestalError(str(error)) from None
    name, version = name or manifest.name, manifest.version
    for what, value in (("name", name), ("version", version)):
        if not _NAME.fullmatch(value):  # it becomes a part of an address
            raise UsageError(
                f"{archive}: the model {what} is {value!r}, expected letters, digits, `_`, `-`, `.`"
            )
    return ModelSpec(name, version, archive)


def _named(text: str, store: Path) -> tuple[Path, str | None]:
    """The archive, and the name that is given to its model."""
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
    return find_stored(store, str(path)), name or None


def _newest(store: Path, reading: _Reading) -> list[ModelSpec]:
    newest: dict[str, ModelSpec] = {}
    twice: set[str] = set()
    for spec in (spec for archive in sorted(store.glob("*.mar")) for spec in reading.read(archive)):
        best = newest.get(spec.name)
        if best is not None and best.version == spec.version:
            error = VestalError(
                f"{best.archive.name} and {spec.archive.name} in {store} are both {spec}: "
                "remove one, or name what to serve with --models"
            )
            reading.fail(spec.archive, error)
            twice.add(spec.name)
        elif best is None or _order(spec.version) > _order(best.version):
            newest[spec.name] = spec
            twice.discard(spec.name)
    for name in twice:
        del newest[name]
    if not newest and reading.failed:
        raise none_served(reading.failed)
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
