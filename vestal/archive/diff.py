"""Compare two unpacked archives: files, settings, packages and metadata.

Engine, precision, packages and training are read from the bills of materials. Archives without one
are compared by files and settings only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.mar.index import sha256_of
from vestal.mar.layout import BILL, MANIFEST
from vestal.mar.manifest import Manifest, read_manifest, read_settings

_MISSING = object()


@dataclass(frozen=True)
class Change:
    """One value before and after; None if it is missing."""

    where: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Member:
    """A file and its sizes in bytes; None if it is missing."""

    name: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Changes:
    """Files that were added, removed or changed; other values by the path of their keys."""

    members: list[Member] = field(default_factory=list)
    config: list[Change] = field(default_factory=list)
    packages: list[Change] = field(default_factory=list)
    facts: list[Change] = field(default_factory=list)
    training: list[Change] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())


def compare(before: Path, after: Path) -> Changes:
    """Compare two unpacked archives; times and hashes in the bill of materials are ignored."""
    old, new = _read(before / BILL), _read(after / BILL)
    facts = [_facts(_manifest(folder), bill) for folder, bill in ((before, old), (after, new))]
    return Changes(
        members=_members(before, after),
        config=_changes(_config(before), _config(after)),
        packages=_changes(old.get("packages") or {}, new.get("packages") or {}),
        facts=_changes(*facts),
        training=_changes(old.get("training") or {}, new.get("training") or {}),
    )


def _members(before: Path, after: Path) -> list[Member]:
    sides = [
        {
            file.relative_to(folder).as_posix(): file
            for file in folder.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
        for folder in (before, after)
    ]
    found = []
    for name in sorted((sides[0].keys() | sides[1].keys()) - {BILL, MANIFEST}):
        old, new = (side.get(name) for side in sides)
        if not (old and new and _same(old, new)):
            sizes = [file.stat().st_size if file else None for file in (old, new)]
            found.append(Member(name, *sizes))
    return found


def _same(old: Path, new: Path) -> bool:
    return old.stat().st_size == new.stat().st_size and sha256_of(old) == sha256_of(new)


def _facts(manifest: Manifest, bill: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("model", "version", "task", "engine", "precision", "artifact", "built_on")
    model = manifest.model()
    return {
        "manifest": {key: value for key, value in model.items() if key != "modelVersion"},
        **{key: bill[key] for key in keys if key in bill},
        "version": model.get("modelVersion"),
    }


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_settings(folder, _manifest(folder))
    except VestalError:
        return {}  # the file itself is still compared


def _manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except VestalError:
        return Manifest()


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        Change(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _MISSING) != new.get(key, _MISSING)
    ]


def _flat(value: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, inner in value.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(inner, Mapping) and inner:
            found += _flat(inner, place)
        else:
            found.append((place, inner))
    return found
