"""Imports that a worker would run, followed from file to file by their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePosixPath

# What is there wherever a worker runs: TorchServe, what it imports, torch and what it requires.
WORKER = {"ts", "torch", "numpy", "yaml", "PIL", "psutil", "packaging"}
BASE = WORKER | {
    *("functorch", "torchgen", "typing_extensions", "filelock", "fsspec", "jinja2", "markupsafe"),
    *("mpmath", "networkx", "sympy", "setuptools", "pkg_resources", "triton", "wheel"),
}
_CATCHING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_SUFFIXES = {".py", ".pyc", ".so", ".pyd"}
_LOADING = {"__init__", "initialize"}  # the methods that a load calls
_MAYBE = ast.If | ast.For | ast.AsyncFor | ast.While | ast.Match


@dataclass(frozen=True)
class Import:
    """`import module` or `from module import names`, as a load of `file` runs it.

    Attributes:
        level: the dots of a relative import.
        guarded: inside a try that catches an ImportError, an if, a loop, or a file that is
            imported so: it may fail, or not run.
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
        stem = path.name.partition(".")[0]  # ext.cpython-312-x86_64-linux-gnu.so is ext
        parts = path.parts[:-1] if stem == "__init__" else (*path.parts[:-1], stem)
        if path.suffix in _SUFFIXES and parts and all(part.isidentifier() for part in parts):
            found[".".join(parts)] = name
    return found


def loaded_by_name(trees: Mapping[str, ast.Module], engine: str | None) -> set[str]:
    """What our handlers import by its name: their engine, and the files beside them."""
    return {name for name in trees if "/" not in name} | {f"vestal_handlers/engines/{engine}.py"}


def follow(
    trees: Mapping[str, ast.Module], roots: set[str], names: tuple[str, ...] = ()
) -> tuple[list[Import], list[Missing]]:
    """Everything that is imported once `roots` (members) are.

    Args:
        names: all members: compiled modules have no tree, and are imported all the same.

    Returns:
        The imports of what is not a member, and imports of members that are missing.
    """
    modules = members_by_module((*names, *trees))
    # Every folder on the way to a module is a package, with an __init__.py or without.
    known = modules.keys() | {
        module.rsplit(".", depth)[0] for module in modules for depth in range(module.count(".") + 1)
    }
    outside: list[Import] = []
    missing: list[Missing] = []
    reached: set[str] = set()
    # What is imported in any case goes first: a file is followed once.
    sure, perhaps = sorted(roots & trees.keys()), list[str]()
    while sure or perhaps:
        guarded = not sure
        file = (sure or perhaps).pop()
        if file in reached or file not in trees:
            continue
        reached.add(file)
        for said in imports_of(file, trees[file], guarded=guarded, loading=file in roots):
            target = _absolute(said, modules)
            if target is None:
                missing.append(Missing(said, "a relative import outside of any package"))
                continue
            if said.level == 0 and _elsewhere(said.top, modules, known):
                outside.append(said)
                continue
            steps = target.split(".")
            wanted = [".".join(steps[: depth + 1]) for depth in range(len(steps))]
            lost = next((name for name in wanted if name not in known), "")
            if lost:
                missing.append(Missing(said, f"the archive has no module {lost}"))
            wanted += [f"{target}.{name}".strip(".") for name in said.names]
            (perhaps if said.guarded else sure).extend(
                modules[name] for name in wanted if name in modules
            )
    return outside, missing


def imports_of(
    file: str, tree: ast.Module, *, guarded: bool = False, loading: bool = False
) -> list[Import]:
    """The imports that run when a file is imported, also in classes and compound statements.

    Args:
        guarded: the file itself may not be imported.
        loading: those in methods that a load calls (`__init__`, `initialize`) too.
    """
    found: list[Import] = []
    # A list, not a recursion: a chain of a thousand elif is a thousand levels deep.
    waiting: list[tuple[ast.AST, bool]] = [(node, guarded) for node in tree.body]
    while waiting:
        node, maybe = waiting.pop()
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, a.name, guarded=maybe) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            found.append(Import(file, node.lineno, node.module or "", names, node.level, maybe))
        elif isinstance(node, ast.Try | ast.TryStar):
            caught = maybe or any(map(_catches, node.handlers))
            waiting += [(inner, caught) for inner in (*node.body, *node.orelse)]
            waiting += [(inner, True) for handler in node.handlers for inner in handler.body]
            waiting += [(inner, maybe) for inner in node.finalbody]
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += [(inner, maybe) for inner in node.orelse]  # no worker runs its body
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            loading and node.name in _LOADING
        ):
            inside = maybe or isinstance(node, _MAYBE)
            waiting += [
                (inner, inside)
                for inner in ast.iter_child_nodes(node)
                if isinstance(inner, ast.stmt | ast.match_case)
            ]
    return sorted(found, key=lambda said: said.line)


def is_installed(module: str) -> bool:
    """Whether this Python finds a top-level module, without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # __main__, and whatever else is there without a spec
        return True


def _elsewhere(top: str, modules: Mapping[str, str], known: Set[str]) -> bool:
    """Whether an import of `top` leads out of the archive."""
    if top not in known:
        return True
    # A folder without an __init__.py gives way to an installed package, wherever on the path.
    return top not in modules and is_installed(top)


def _is_type_checking(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


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
