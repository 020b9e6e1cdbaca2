"""serving.yaml: what should run, as a user writes it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vestal.fleet.serving_schema import (
    SECTIONS,
    GatewaySection,
    ModelSection,
    Section,
    ServingSection,
)
from vestal.fleet.serving_tree import Keys, Tree, read_tree

_KINDS = {
    "model_type": "keys with values",
    "dict_type": "keys with values",
    "list_type": "a list",
    "tuple_type": "a list",
}


@dataclass(frozen=True)
class ServingFile:
    """A valid serving.yaml. `sha256`: digest of its text. `tree`: for the lines in messages."""

    path: Path
    sha256: str
    models: Mapping[str, ModelSection]
    gateway: GatewaySection | None
    tree: Tree


def load(path: Path) -> ServingFile:
    """Read and check a serving.yaml.

    Raises:
        UsageError: it cannot be read or is invalid; one line for each problem, at most 20.
    """
    tree = read_tree(path)
    if tree.value is None and not tree.problems:
        tree.report((), "the file is empty; expected `models:` with an entry for each model")
        tree.raise_problems()
    try:
        content = ServingSection.model_validate(tree.value)
    except ValidationError as invalid:
        _report(tree, invalid.errors(include_url=False))
        tree.raise_problems()
        raise  # a problem that was not reported is a defect of this module
    tree.raise_problems()
    return ServingFile(path, tree.sha256, content.models, content.gateway, tree)


def _report(tree: Tree, errors: Sequence[Mapping[str, Any]]) -> None:
    misspelt: set[Keys] = set()
    for error in sorted(errors, key=lambda each: each["type"] != "extra_forbidden"):
        keys, kind = _keys_in_file(tree, error["loc"]), error["type"]
        if kind == "extra_forbidden":
            near = _nearest_key(keys)
            misspelt.add((*keys[:-1], near or ""))
            tree.report(keys, _unknown_key(keys, near))
        elif kind == "missing":
            missing = (*keys, error["loc"][-1])
            if missing not in misspelt:
                tree.report(missing, "missing")
        elif kind == "conflict":
            tree.report(keys, error["msg"])
        else:
            what = error["ctx"]["what"] if kind == "expected" else _KINDS.get(kind, error["msg"])
            tree.report(keys, f"expected {what}, got {tree.shown_at(keys, error['input'])}")


def _keys_in_file(tree: Tree, location: Sequence[str | int]) -> Keys:
    """Return the path in the file: without list elements of single values, for example."""
    keys: Keys = ()
    for part in location:
        if (*keys, part) in tree.lines:
            keys = (*keys, part)
    return keys


def _nearest_key(keys: Keys) -> str | None:
    known = _section(keys[:-1]).model_fields
    return next(iter(difflib.get_close_matches(str(keys[-1]).lower(), known, n=1)), None)


def _unknown_key(keys: Keys, near: str | None) -> str:
    known = ", ".join(_section(keys[:-1]).model_fields)
    return f"unknown key; {f'did you mean {near}?' if near else f'expected one of {known}'}"


def _section(keys: Keys) -> type[Section]:
    """Return the section at a path."""
    in_model = keys[:1] == ("models",)  # followed by the name of the model
    names = keys[2:] if in_model else keys
    inner = [SECTIONS[key] for key in names if isinstance(key, str) and key in SECTIONS]
    if inner:
        return inner[-1]
    return ModelSection if in_model and len(keys) > 1 else ServingSection
