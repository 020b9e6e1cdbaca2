"""Parse Python sources and follow the imports of an archive, without importing anything."""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import PurePosixPath

# Installed wherever a worker runs: TorchServe and torch, with everything that they require.
WORKER = {"ts", "torch", "numpy", "yaml", "PIL", "psutil", "packaging"}
BASE = WORKER | {
    *("functorch", "torchgen", "typing_extensions", "filelock", "fsspec", "jinja2", "markupsafe"),
    *("mpmath", "networkx", "sympy", "setuptools", "pkg_resources", "triton", "wheel"),
}
_SUFFIXES = {".py", ".pyc", ".so", ".pyd"}
# Python 3.11 counts the depth of a tree for all threads together, and fails if several parse.
_PARSING = threading.Lock()


@dataclass(frozen=True)
class Import:
    """An import of `module`, an absolute dotted name; "" if it leads out of the archive."""

    file: str
    line: int
    module: str
    names: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


@lru_cache(maxsize=256)  # archives contain the same copies of vestal_handlers
def parse(source: bytes) -> ast.Module:
    """The syntax tree; raises SyntaxError, with `lineno`, for code that does not compile."""
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the archive's code
        try:
            return ast.parse(source)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or "it is nested too deeply") from None


def imports_in(file: str, nodes: Iterable[ast.AST]) -> Iterator[Import]:
    """The imports among the nodes of a file's syntax tree."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield Import(file, node.lineno, _absolute(file, node), names)


def loaded_by_name(trees: Mapping[str, ast.Module], engine: str | None) -> set[str]:
    """The files that our handlers import by name: their engine, and those in the archive's root."""
    return {name for name in trees if "/" not in name} | {f"vestal_handlers/engines/{engine}.py"}


def follow_imports(
    trees: Mapping[str, ast.Module], roots: Iterable[str], names: Iterable[str] = ()
) -> tuple[list[Import], list[Import]]:
    """The imports that certainly run when the files `roots` are imported.

    Those inside a function or a compound statement (`try`, `if`) may fail or never run, so they are
    ignored.

    Args:
        trees: syntax trees by member.
        names: all members; compiled modules have no syntax tree.

    Returns:
        Imports from outside the archive, and imports of the archive's own modules that are missing.
    """
    modules = _modules({*names, *trees})
    # A folder that contains a module is a package, with or without __init__.py.
    packages = {
        module.rsplit(".", depth)[0] for module in modules for depth in range(module.count(".") + 1)
    }
    outside: list[Import] = []
    missing: list[Import] = []
    waiting, reached = sorted(roots), set[str]()
    while waiting:
        file = waiting.pop()
        if file in reached or file not in trees:
            continue
        reached.add(file)
        for found in imports_in(file, trees[file].body):
            if found.module and _is_outside(found.package, modules, packages):
                outside.append(found)
                continue
            if found.module not in packages:
                missing.append(found)
            steps = found.module.split(".")
            prefixes = [".".join(steps[: depth + 1]) for depth in range(len(steps))]
            imported = [*prefixes, *(f"{found.module}.{name}" for name in found.names)]
            waiting += [modules[name] for name in imported if name in modules]
    return outside, missing


def is_installed(package: str) -> bool:
    """Whether this Python finds a top-level package, without importing it."""
    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a spec, such as __main__
        return True


def _is_outside(package: str, modules: Mapping[str, str], packages: set[str]) -> bool:
    if package not in packages:
        return True
    # An installed package has precedence over a folder without __init__.py.
    return package not in modules and is_installed(package)


def _modules(names: Iterable[str]) -> dict[str, str]:
    """Dotted module name -> member, for every module in an archive."""
    modules = {}
    for name in names:
        path = PurePosixPath(name)
        stem = path.name.partition(".")[0]  # ext.cpython-312-x86_64-linux-gnu.so is ext
        parts = path.parts[:-1] if stem == "__init__" else (*path.parts[:-1], stem)
        if path.suffix in _SUFFIXES and parts and all(part.isidentifier() for part in parts):
            modules[".".join(parts)] = name
    return modules


def _absolute(file: str, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    package = PurePosixPath(file).parts[:-1]
    base = package[: len(package) - node.level + 1] if node.level <= len(package) else ()
    return ".".join([*base, node.module or ""]).strip(".") if base else ""
