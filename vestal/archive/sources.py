"""What a Python source defines, read from its syntax tree: nothing is imported."""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

# What makes a class without a class statement; its __module__ is the caller's.
_MAKERS = {"namedtuple", "NamedTuple", "TypedDict", "make_dataclass", "Enum", "IntEnum", "StrEnum"}
_BODIES = ("body", "orelse", "finalbody")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """The names that a module has once it is imported, as far as its source tells.

    Attributes:
        classes: names bound to classes defined here; an alias counts, as it does for TorchServe.
        uncertain: those of `classes` that stand in an if, a try or a loop.
        stars: it imports `*`, so it may have any name.
        imported: a name bound by `from module import name` -> (module, name).
    """

    classes: dict[str, ast.ClassDef | None] = field(default_factory=dict)
    uncertain: set[str] = field(default_factory=set)
    functions: dict[str, Function] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: bool = False


# Python 3.11 counts the depth of a tree for all threads together, and fails where they mix.
_PARSING = threading.Lock()


def parse(source: bytes) -> ast.Module:
    """Raises SyntaxError for what Python does not compile; `lineno` says where."""
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an archive's own odd escapes
        try:
            return ast.parse(source)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error) or "it is nested too deeply") from None


def describe(tree: ast.Module) -> Module:
    """What the module of this tree has at its top level."""
    module = Module()
    for statement, certain in _statements(tree.body):
        _take(statement, certain, module)
    return module


def _statements(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.stmt, bool]]:
    """Statements that run at import, also inside compound ones; `certain`: run in any case."""
    # A list, not a recursion: a chain of a thousand elif is a thousand levels deep.
    waiting = [(statement, True) for statement in reversed(body)]
    while waiting:
        statement, certain = waiting.pop()
        yield statement, certain
        if isinstance(statement, Function | ast.ClassDef):
            continue
        # A with's body always runs.
        inner = certain and isinstance(statement, ast.With)
        nested = [(each, inner) for name in _BODIES for each in getattr(statement, name, [])]
        for branch in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
            nested += [(each, False) for each in branch.body]
        waiting += reversed(nested)


def _take(statement: ast.stmt, certain: bool, module: Module) -> None:
    if isinstance(statement, ast.ClassDef):
        _bind_class(statement.name, statement, certain, module)
    elif isinstance(statement, Function):
        module.functions[statement.name] = statement
        module.names.add(statement.name)
    elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            for node in ast.walk(target):
                if isinstance(node, ast.Name):
                    _assign(node.id, statement.value, certain, module)
    elif isinstance(statement, ast.Import):
        module.names.update(a.asname or a.name.partition(".")[0] for a in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            module.stars |= alias.name == "*"
            name = alias.asname or alias.name
            module.names.add(name)
            module.imported[name] = ("." * statement.level + (statement.module or ""), alias.name)
    elif isinstance(statement, ast.Delete):
        for node in statement.targets:
            if isinstance(node, ast.Name):
                module.classes.pop(node.id, None)
                module.names.discard(node.id)


def _assign(name: str, value: ast.expr, certain: bool, module: Module) -> None:
    module.names.add(name)
    module.classes.pop(name, None)
    if isinstance(value, ast.Name) and value.id in module.classes:
        _bind_class(name, module.classes[value.id], certain, module)
    elif isinstance(value, ast.Call):
        called = value.func
        maker = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if maker in _MAKERS or (maker == "type" and len(value.args) == 3):
            _bind_class(name, None, certain, module)


def _bind_class(name: str, node: ast.ClassDef | None, certain: bool, module: Module) -> None:
    module.classes[name] = node
    module.names.add(name)
    if certain:
        module.uncertain.discard(name)
    else:
        module.uncertain.add(name)
