"""The archives of a model store, by file name and by version."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from vestal.errors import UsageError, VestalError
from vestal.server.spec import ModelSpec, read_spec


class ArchiveStore:
    """The archives of a model store by name and version; each is opened once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs: list[ModelSpec] = []
        self.unreadable: dict[str, str] = {}
        for archive in sorted(folder.glob("*.mar")):
            try:
                self.specs.append(read_spec(archive))
            except VestalError as error:
                self.unreadable[archive.name] = str(error)

    def by_file(self, name: str) -> ModelSpec:
        """Return the archive with a file name, with or without .mar.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        for file in (name, f"{name}.mar"):
            if file in self.unreadable:
                raise UsageError(self.unreadable[file])
            for spec in self.specs:
                if spec.archive.name == file:
                    return spec
        files = [spec.archive.name for spec in self.specs]
        raise UsageError(f"{self.folder} has no archive {name}; {_it_has(files, name)}")

    def by_version(self, model: str, version: str) -> ModelSpec:
        """Return the archive of a version.

        Raises:
            UsageError: there is none, or several.
        """
        versions = [spec for spec in self.specs if spec.name == model]
        found = [spec for spec in versions if spec.version == version]
        if len(found) > 1:
            names = " and ".join(spec.archive.name for spec in found)
            raise UsageError(f"{names} are both {model} {version}; name one with `archive:`")
        if found:
            return found[0]
        if versions:
            known = ", ".join(spec.version for spec in versions)
            near = difflib.get_close_matches(version, [s.version for s in versions], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{self.folder} has no {model} {version}; it has version {known}{hint}"
            )
        models = sorted({spec.name for spec in self.specs})
        raise UsageError(f"{self.folder} has no archive of {model}; {_it_has(models, model)}")


def _it_has(names: Sequence[str], name: str) -> str:
    if not names:
        return "it is empty; `vestal pack` adds an archive"
    near = difflib.get_close_matches(name, names, n=1)
    return f"it has {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")
