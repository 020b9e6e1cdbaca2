"""The handler, by the rules of `ts.model_loader`, read from its syntax tree."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from vestal.mar.findings import Check, Finding
from vestal.mar.layout import MANIFEST
from vestal.mar.manifest import Manifest
from vestal.mar.opening import Contents

STOCK = "ts.torch_handler"


@dataclass(frozen=True)
class Handler:
    """What is known about the handler without importing it.

    Attributes:
        file: its member; None for a handler of TorchServe.
        stock: TorchServe's BaseHandler loads the model, so the weights must suit it.
        task: the class of `vestal_handlers` that it derives from, as (module, name).
    """

    file: str | None
    stock: bool
    task: tuple[str, str] | None = None


def check_handler(
    contents: Contents, manifest: Manifest, trees: dict[str, ast.Module]
) -> Check[Handler | None]:
    """Find the handler; None if it is missing, or not among the syntax trees."""
    # The archive's root comes first on a worker's path.
    root = f"{manifest.handler_module}.py"
    file = root if root in contents else manifest.handler_file
    if file in trees:
        classes = [each for each in trees[file].body if isinstance(each, ast.ClassDef)]
        yield from _check_entry_point(contents.bytes(file), trees[file], classes, manifest, file)
        config = manifest.config_file
        settings = contents.text(config) if config and config in contents else ""
        if "asyncCommunication" not in settings:
            yield from _check_coroutines(trees[file], classes, manifest, file)
        return _describe(file, trees[file], classes)
    if file in contents:
        return None  # it does not compile, which another check reports
    # A worker looks up its own handlers by the manifest's text, suffix included.
    if _is_stock(manifest.handler):
        return Handler(None, stock=True)
    yield Finding.error(
        "no-handler",
        MANIFEST,
        f"model.handler is {manifest.handler}: there is no {root} in the archive's root, "
        "and TorchServe has no handler with that name",
        "pack the handler's file, or name a handler of TorchServe (image_classifier)",
    )
    return None


def _is_stock(name: str) -> bool:
    spec = find_spec("ts")
    folders = (spec.submodule_search_locations if spec else None) or []
    return (
        name.isidentifier()
        and name != "__init__"
        and any(Path(folder, "torch_handler", f"{name}.py").is_file() for folder in folders)
    )


def _check_entry_point(
    source: bytes, tree: ast.Module, classes: list[ast.ClassDef], manifest: Manifest, file: str
) -> Iterator[Finding]:
    """A worker takes a function of the expected name, or else the only class of the file.

    Classes in an `if` or a function are left to the trial run.
    """
    entry = manifest.handler_function
    try:
        table = symtable.symtable(source, file, "exec")  # type: ignore[arg-type]
    except SyntaxError as error:  # such as nonlocal outside of a function
        meaning = f"Python cannot compile it: {error.msg}"
        yield Finding.error("syntax", f"{file}:{error.lineno}", meaning, "correct it")
        return
    defined = entry in table.get_identifiers() and table.lookup(entry).is_local()
    no_class = not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
    imports_all = any(
        isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body
    )
    if defined or not (len(classes) > 1 or (no_class and not imports_all)):
        return
    names = ", ".join(node.name for node in classes[:5]) + ", ..." * (len(classes) > 5)
    yield Finding.error(
        "handler-classes",
        file,
        f"it defines {f'{len(classes)} classes ({names})' if classes else 'no class'} and no "
        f"function {entry}(data, context); TorchServe loads exactly one class",
        "keep one class in it, and move the others into a module beside it",
    )


def _check_coroutines(
    tree: ast.Module, classes: list[ast.ClassDef], manifest: Manifest, file: str
) -> Iterator[Finding]:
    candidates = {manifest.handler_function: tree.body}
    if len(classes) == 1:
        candidates |= dict.fromkeys(("handle", "initialize"), classes[0].body)
    for name, body in candidates.items():
        for node in body:
            if (
                isinstance(node, ast.AsyncFunctionDef)
                and node.name == name
                and not node.decorator_list
            ):
                yield Finding.error(
                    "handler-methods",
                    f"{file}:{node.lineno}",
                    f"async def {name}: TorchServe calls it and does not await its result",
                    f"write it as def {name}",
                )


def _describe(file: str, tree: ast.Module, classes: list[ast.ClassDef]) -> Handler:
    if len(classes) != 1:
        return Handler(file, stock=False)
    (handler,) = classes
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
    }
    bases = [
        imported[base.id]
        for base in handler.bases
        if isinstance(base, ast.Name) and base.id in imported
    ]
    loads_itself = any(
        getattr(node, "name", "") in ("initialize", "_load_pickled_model") for node in handler.body
    )
    stock = any(module.startswith(STOCK) for module, _ in bases) and not loads_itself
    ours = [base for base in bases if base[0].partition(".")[0] == "vestal_handlers"]
    # An assignment in its body may replace the type of its options.
    plain = not any(isinstance(node, ast.Assign) for node in handler.body)
    return Handler(file, stock, ours[0] if len(ours) == 1 and plain else None)
