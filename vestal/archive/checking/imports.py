"""Imports that a worker would run, followed from file to file by their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

_CATCHING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


@dataclass(frozen=True)
class Import:
    """`import module` or `from module import names`, at the top level of `file`.

    Attributes:
        level: the dots of a relative import.
        guarded: inside a try that catches an ImportError, or an if: it may fail, or not run.
    """

    file: str
    line: int
    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    guarded: bool = False

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Missing:
    """An import of a member that is not there."""

    said: Import
    reason: str


def members_by_module(names: Iterator[str] | tuple[str, ...]) -> dict[str, str]:
    """Dotted module name -> member, for what a worker with the archive on its path can import."""
    found = {}
    for name in names:
        path = PurePosixPath(name)
        parts = path.parts[:-1] if path.name == "__init__.py" else (*path.parts[:-1], path.stem)
        if path.suffix == ".py" and parts and all(part.isidentifier() for part in parts):
            found[".".join(parts)] = name
    return found


def follow(trees: Mapping[str, ast.Module], roots: set[str]) -> tuple[list[Import], list[Missing]]:
    """Everything that is imported once `roots` (members) are.

    Returns:
        The imports of what is not a member, and imports of members that are missing.
    """
    modules = members_by_module(tuple(trees))
    # Every folder on the way to a module is a package, with an __init__.py or without.
    known = modules.keys() | {
        module.rsplit(".", depth)[0] for module in modules for depth in range(module.count(".") + 1)
    }
    outside: list[Import] = []
    missing: list[Missing] = []
    reached: set[str] = set()
    waiting = sorted(roots & trees.keys())
    while waiting:
        file = waiting.pop()
        if file in reached:
            continue
        reached.add(file)
        for said in imports_of(file, trees[file]):
            target = _absolute(said, modules)
            if target is None:
                missing.append(Missing(said, "a relative import outside of any package"))
                continue
            if said.level == 0 and target.partition(".")[0] not in known:
                outside.append(said)
                continue
            steps = target.split(".")
            wanted = [".".join(steps[: depth + 1]) for depth in range(len(steps))]
            lost = next((name for name in wanted if name not in known), "")
            if lost:
                missing.append(Missing(said, f"the archive has no module {lost}"))
            wanted += [f"{target}.{name}".strip(".") for name in said.names]
            waiting += [modules[name] for name in wanted if name in modules]
    return outside, missing


def imports_of(file: str, tree: ast.Module) -> Iterator[Import]:
    """The imports at the top level of a file, also in classes and compound statements."""
    yield from _imports(file, tree.body, guarded=False)


def _imports(file: str, body: list[ast.stmt], guarded: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, guarded=guarded)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            yield Import(file, node.lineno, node.module or "", names, node.level, guarded)
        elif isinstance(node, ast.Try):
            caught = guarded or any(_catches(handler) for handler in node.handlers)
            yield from _imports(file, node.body, caught)
            for handler in node.handlers:
                yield from _imports(file, handler.body, True)
            yield from _imports(file, node.orelse, caught)
            yield from _imports(file, node.finalbody, guarded)
        elif isinstance(node, ast.If):
            yield from _imports(file, [*node.body, *node.orelse], True)
        elif isinstance(node, ast.With | ast.ClassDef):
            yield from _imports(file, node.body, guarded)


def _catches(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(
        getattr(node, "id", getattr(node, "attr", "")) in _CATCHING
        for node in ast.walk(handler.type)
    )


def _absolute(said: Import, modules: Mapping[str, str]) -> str | None:
    """The dotted name that is imported; None for a relative import that leads nowhere."""
    if said.level == 0:
        return said.module
    parts = PurePosixPath(said.file).parts[:-1]  # the package that the file is in
    up = said.level - 1
    if not parts or up >= len(parts):
        return None
    base = parts[: len(parts) - up]
    return ".".join([*base, *([said.module] if said.module else [])])
