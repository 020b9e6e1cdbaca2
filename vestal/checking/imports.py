"""Imports that would fail, and files that hide an installed module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath

from vestal.archive.sources import (
    BASE,
    WORKER,
    follow_imports,
    imports_in,
    is_installed,
    loaded_by_name,
)
from vestal.checking.bill import Bill
from vestal.checking.handlers import Handler
from vestal.mar.findings import Check, Finding
from vestal.mar.manifest import Manifest
from vestal.mar.opening import Contents

Trees = Mapping[str, ast.Module]


def check_imports(
    contents: Contents, manifest: Manifest, handler: Handler, trees: Trees, bill: Bill | None
) -> Check[None]:
    """Check the imports that certainly run when a worker loads the archive."""
    roots = {name for name in (handler.file, manifest.model_file) if name}
    if bill:
        roots |= loaded_by_name(trees, bill.engine)
    outside, missing = follow_imports(trees, roots, contents.names)
    for each in missing:
        yield Finding.error(
            "import-missing",
            f"{each.file}:{each.line}",
            f"it imports {each.module}, which the archive does not contain: loading fails"
            if each.module
            else "a relative import in a file that is in no package: loading fails",
            "pack that module too, with its folder, or import it by its full name",
        )
    for package, each in {each.package: each for each in reversed(outside)}.items():
        if not (package in sys.stdlib_module_names | BASE or is_installed(package)):
            yield Finding.warning(
                "import-missing",
                f"{each.file}:{each.line}",
                f"it imports {package}, which is neither in the archive nor installed here",
                f"if {package} is a file of yours, pack it too (--extra-files); if it is a "
                "package, install it here and on the server",
            )


def check_shadowing(contents: Contents, manifest: Manifest, trees: Trees) -> Check[None]:
    """Check the names of the modules in the root, which a worker finds before installed ones."""
    for name in contents.names:
        path = PurePosixPath(name)
        is_package = path.name == "__init__.py" and len(path.parts) == 2
        if not is_package and (path.suffix != ".py" or len(path.parts) != 1):
            continue
        module = path.parts[0] if is_package else path.stem
        if module in WORKER:
            add = Finding.error
            meaning = f"a worker imports this file instead of the installed package {module}"
        elif module in sys.stdlib_module_names:
            used = module == manifest.handler_module or name == manifest.model_file
            used = used or _is_imported(module, trees)
            add = Finding.error if used else Finding.warning
            meaning = (
                f"Python has a module {module}: if it is imported already, this file is never "
                "found; otherwise it takes the place of Python's"
            )
        else:
            continue
        yield add("shadowing", name, meaning, f"rename it, for example to my_{module}")


def _is_imported(module: str, trees: Trees) -> bool:
    """Whether any file imports the module, also in a function."""
    return any(
        each.package == module
        for file, tree in trees.items()
        for each in imports_in(file, ast.walk(tree))
    )
