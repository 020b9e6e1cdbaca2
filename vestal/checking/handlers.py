"""The handler and the model file, by the rules of `ts.model_loader` and `ts.torch_handler`."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vestal.archive.sources import Function, Module, describe, parse
from vestal.checking.manifest import Manifest
from vestal.mar.findings import Findings
from vestal.mar.layout import MANIFEST
from vestal.mar.opening import Contents

STOCK = "ts.torch_handler"
_METHODS = ("handle", "initialize")


@dataclass(frozen=True)
class Handler:
    """What is known of the handler without importing it.

    Attributes:
        file: its member; None for one of TorchServe's own.
        stock: TorchServe's BaseHandler loads the model: weights and model file must suit it.
        task: the class of `vestal_handlers` that it is, as (module, name); None if it is another.
    """

    file: str | None
    stock: bool
    task: tuple[str, str] | None = None


@cache
def stock_handler(name: str) -> Path | None:
    """The source of a handler that comes with TorchServe; None where it has no such."""
    spec = find_spec("ts")
    for place in (spec.submodule_search_locations if spec else None) or []:
        source = Path(place) / "torch_handler" / f"{name}.py"
        if name.isidentifier() and name != "__init__" and source.is_file():
            return source
    return None


def check_handler(
    contents: Contents, manifest: Manifest, trees: dict[str, ast.Module], found: Findings
) -> Handler | None:
    """`trees`: the members that compile. None where there is no handler to go on with."""
    # The archive's root comes first on a worker's path.
    root = f"{manifest.handler_module}.py"
    file = root if root in contents else manifest.handler_file
    if file not in contents:
        # A worker asks its own handlers by what stands in the manifest, suffix and all.
        source = stock_handler(manifest.handler)
        if source is None:
            found.error(
                "no-handler",
                MANIFEST,
                f"model.handler is {manifest.handler}: there is no {root} in the archive's root, "
                "and TorchServe has no handler of that name",
                "pack the handler's file, or name a handler of TorchServe (image_classifier)",
            )
            return None
        _check_entry(describe(parse(source.read_bytes())), manifest, MANIFEST, found)
        return Handler(None, stock=True)
    if file not in trees:
        return None  # it does not compile, which is said already
    module = describe(trees[file])
    node = _check_entry(module, manifest, file, found)
    if manifest.config is None or "asyncCommunication" not in contents.text(manifest.config):
        entry = module.functions.get(manifest.handler_function)
        methods = [_method(node, name) for name in _METHODS] if node else []
        for function in (entry, *methods):
            if isinstance(function, ast.AsyncFunctionDef) and not function.decorator_list:
                _not_awaited(function, file, found)
    return _handler(file, module, node)


def check_model_file(
    contents: Contents, manifest: Manifest, trees: dict[str, ast.Module], found: Findings
) -> None:
    """Where BaseHandler loads the model: it makes the one class of the model file."""
    name = manifest.model_file
    if name is None or name not in trees:
        return
    if f"{name.split('.')[0]}.py" != name:
        found.error(
            "model-classes",
            name,
            f"TorchServe imports {name.split('.')[0]}, the name up to its first dot",
            "give the file a name with one dot",
        )
        return
    classes = describe(trees[name])
    if len(classes.classes) != 1 and not classes.classes.keys() & classes.uncertain:
        found.error(
            "model-classes",
            name,
            f"it defines {_counted(classes)}; TorchServe takes the one class that is defined "
            "there, and fails on none or several",
            "keep the model's class in it, and import the others from a module beside it",
        )
    node = next(iter(classes.classes.values()), None)
    if node is not None and (needed := _needed_arguments(_method(node, "__init__"))) > 1:
        found.error(
            "model-classes",
            name,
            f"{node.name}() needs {needed - 1} arguments; TorchServe calls it with none",
            "give every argument a default",
        )


def _check_entry(
    module: Module, manifest: Manifest, where: str, found: Findings
) -> ast.ClassDef | None:
    """The rules of TsModelLoader: a function of that name, or else exactly one class."""
    entry = manifest.handler_function
    if entry in module.names:
        if entry in module.functions:
            _check_function(module.functions[entry], where, found)
        return None
    if module.stars and not module.classes:
        return None
    if len(module.classes) != 1:
        meaning = (
            f"it defines {_counted(module)} and no function {entry}(data, context); "
            "TorchServe takes the one class that is defined there, and fails on none or several"
        )
        todo = "keep one class in it, and import the others from a module beside it"
        certain = module.classes.keys() - module.uncertain
        if module.uncertain & module.classes.keys() and len(certain) <= 1:
            found.warning("handler-classes", where, f"it may be that {meaning}", todo)
        else:
            found.error("handler-classes", where, meaning, todo)
        return None
    if ":" in manifest.handler:
        found.warning(
            "handler-methods",
            where,
            f"the manifest names the function {entry}, which is not there: "
            "TorchServe takes the class instead, in silence",
            "name the handler without a function, or write it",
        )
    (node,) = module.classes.values()
    if node is not None:
        _check_class(node, where, found)
    return node


def _check_class(node: ast.ClassDef, where: str, found: Findings) -> None:
    bases = [base for base in node.bases if getattr(base, "id", "") != "object"]
    missing = [name for name in _METHODS if not bases and _method(node, name) is None]
    if missing and not any(isinstance(line, ast.Assign) for line in node.body):
        found.error(
            "handler-methods",
            f"{where}:{node.lineno}",
            f"{node.name} has no method {' and no method '.join(missing)}, which TorchServe calls",
            "write it, or derive the class from ts.torch_handler.base_handler.BaseHandler",
        )
    if (needed := _needed_arguments(_method(node, "__init__"))) > 1:
        found.error(
            "handler-methods",
            f"{where}:{node.lineno}",
            f"{node.name}() needs {needed - 1} arguments; TorchServe calls it with none",
            "give every argument a default",
        )


def _check_function(function: Function, where: str, found: Findings) -> None:
    if function.decorator_list:
        return  # whatever they make of it
    arguments = function.args
    takes = len(arguments.posonlyargs) + len(arguments.args)
    if _needed_arguments(function) > 2 or (takes < 2 and arguments.vararg is None):
        found.error(
            "handler-methods",
            f"{where}:{function.lineno}",
            f"TorchServe calls {function.name}(data, context); this one takes {takes} arguments",
            f"write it as def {function.name}(data, context)",
        )


def _not_awaited(function: Function, where: str, found: Findings) -> None:
    found.error(
        "handler-methods",
        f"{where}:{function.lineno}",
        f"async def {function.name}: TorchServe calls it and does not await what it gives",
        f"write it as def {function.name}(data, context)",
    )


def _handler(file: str, module: Module, node: ast.ClassDef | None) -> Handler:
    bases = [
        module.imported[base.id]
        for base in (node.bases if node else [])
        if isinstance(base, ast.Name) and base.id in module.imported
    ]
    own = node is not None and any(
        _method(node, name) for name in ("initialize", "_load_pickled_model")
    )
    stock = any(base[0].startswith(STOCK) for base in bases) and not own
    ours = [base for base in bases if base[0].partition(".")[0] == "vestal_handlers"]
    plain = node is not None and not any(isinstance(s, ast.Assign) for s in node.body)
    return Handler(file, stock, ours[0] if len(ours) == 1 and plain else None)


def _method(node: ast.ClassDef, name: str) -> Function | None:
    for statement in node.body:
        if isinstance(statement, Function) and statement.name == name:
            return statement
    return None


def _needed_arguments(function: Function | None) -> int:
    """Arguments without a default; `self` counts."""
    if function is None:
        return 0
    given = function.args
    positional = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return positional + sum(default is None for default in given.kw_defaults)


def _counted(module: Module) -> str:
    if not module.classes:
        return "no class"
    names = sorted(module.classes)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} classes ({', '.join(names[:5])}{more})"
