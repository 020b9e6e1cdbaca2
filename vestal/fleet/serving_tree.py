"""Reads a YAML file that a person edits: values, and the line of each, for messages."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vestal.errors import UsageError
from vestal.files.text import read_text
from vestal.mar.findings import printable

MOST_BYTES = 256 << 10
MOST_MESSAGES = 20

Keys = tuple[str | int, ...]
_PREFIX = "tag:yaml.org,2002:"


@dataclass
class Tree:
    """The content of a file.

    Attributes:
        value: dicts with string keys, lists and scalars.
        lines: line of each key and each list element, by its path.
        shown: scalars as they are written, by path.
        problems: what is wrong with it, with line numbers.
        sha256: digest of the file.
    """

    path: Path
    value: Any = None
    sha256: str = ""
    lines: dict[Keys, int] = field(default_factory=dict)
    shown: dict[Keys, str] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    _reported: set[Keys] = field(default_factory=set)

    def report(self, keys: Sequence[str | int], problem: str) -> None:
        """Add a problem at a path, if it is the first there.

        A key that is missing is reported at the line of its parent.
        """
        if tuple(keys) in self._reported:
            return
        self._reported.add(tuple(keys))
        line = next((self.lines[k] for k in _prefixes(keys) if k in self.lines), 1)
        self.problems.append((line, f"{_path_text(keys)}: {problem}" if keys else problem))

    def shown_at(self, keys: Sequence[str | int], value: object) -> str:
        """Return a value as a person wrote it."""
        kinds = {dict: "keys with values", list: "a list", type(None): "nothing"}
        text = self.shown.get(tuple(keys)) or kinds.get(type(value)) or str(value)
        return text if len(text) <= 60 else f"{text[:57]}..."

    def raise_problems(self) -> None:
        """Raise UsageError with all problems, if there are any."""
        found = sorted(dict.fromkeys(self.problems), key=lambda each: each[0])
        lines = [f"{self.path}:{line}: {printable(text)}" for line, text in found[:MOST_MESSAGES]]
        if len(found) > MOST_MESSAGES:
            lines.append(f"and {len(found) - MOST_MESSAGES} more")
        if lines:
            raise UsageError("\n".join(lines))


def read_tree(path: Path) -> Tree:
    """Read a YAML file. Problems of its keys and values are in the tree.

    Raises:
        UsageError: the file cannot be read, is too large, or is not YAML.
    """
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(
            f"{path} has {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}"
        )
    text = read_text(path)
    tree = Tree(path, sha256=hashlib.sha256(text.encode()).hexdigest())
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            tree.value = _Converter(tree).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tree.problems.append((mark.line + 1 if mark else 1, _yaml_problem(error)))
        tree.raise_problems()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        tree.problems.append((line, f"not YAML: unexpected character {chr(error.character)!a}"))
        tree.raise_problems()
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply") from None
    return tree


class _Loader(yaml.SafeLoader):
    """Refuses aliases, with which a short text fills the memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"the alias *{event.anchor} is not supported", event.start_mark
            )
        return super().compose_node(parent, index)


class _Converter:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._constructor = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        self._tree.lines.setdefault(keys, node.start_mark.line + 1)
        kind = node.tag.removeprefix(_PREFIX)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(each, (*keys, i)) for i, each in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, kind, keys)
        self._tree.report(keys, f"the tag {node.tag} is not supported")
        return None

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._tree.report(keys, "a key must be text")
                continue
            inner = (*keys, str(key.value))
            line = key.start_mark.line + 1
            if key.value in found:
                first = self._tree.lines[inner]
                self._tree.problems.append(
                    (line, f"{_path_text(inner)}: the key is already in line {first}; remove one")
                )
                continue
            self._tree.lines[inner] = line
            found[str(key.value)] = self.value(value, inner)
        return found

    def _scalar(self, node: yaml.ScalarNode, kind: str, keys: Keys) -> Any:
        text = str(node.value)
        if text or node.style:
            self._tree.shown[keys] = f'"{text}"' if node.style else text
        # YAML 1.1 reads 10:30 as the number 630, and 2026-01-31 as a date.
        if kind in ("str", "timestamp") or (kind in ("int", "float") and ":" in text):
            return text
        if kind not in ("null", "bool", "int", "float"):
            self._tree.report(keys, f"the tag {node.tag} is not supported")
            return None
        try:
            value = getattr(self._constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, IndexError):  # a tag that does not fit, or without a value
            value = math.nan
        if isinstance(value, float) and not math.isfinite(value):
            expected = "true or false" if kind == "bool" else "a finite number"
            got = self._tree.shown.get(keys, "nothing")
            self._tree.report(keys, f"expected {expected}, got {got:.60}")
            return None
        return value


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(str(error.problem or error.context).split())
    if "'\\t'" in problem:
        return "not YAML: a tab at the start of a line; indent with spaces"
    return f"not YAML: {problem}"


def _prefixes(keys: Sequence[str | int]) -> list[Keys]:
    return [tuple(keys[:count]) for count in range(len(keys), -1, -1)]


def _path_text(keys: Sequence[str | int]) -> str:
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".")
