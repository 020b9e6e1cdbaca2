"""Read checkpoints that hold settings besides weights: argparse, numpy numbers, dataclasses.

torch.load runs with `weights_only=True`. Stand-ins replace the classes of plain data; they keep
nothing and run nothing, and no class of a checkpoint is ever imported.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

MOST = 200  # classes in one file
_OPAQUE = re.compile(r"(numpy|pathlib|datetime|decimal|fractions|uuid|zoneinfo)\.")
# Functions and classes that a pickle calls with their values.
_CALLED = re.compile(
    r"numpy(\._?core)?(\.multiarray|\.numeric|\.dtypes)?\.\w+|numpy\.random\._pickle\.\w+"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|argparse\.Namespace|types\.SimpleNamespace"
    r"|collections\.(defaultdict|deque)|datetime\.\w+|decimal\.Decimal|fractions\.Fraction"
    r"|uuid\.UUID|builtins\.(list|dict|tuple|frozenset|range|slice|int|float|str|bool|bytes|object)"
    r"|typing\.Any|copyreg\._reconstructor|copy_reg\._reconstructor|zoneinfo\.ZoneInfo"
)


class _StandIn(type):
    """The type of stand-ins. Only plain data and members of an enum may be called."""

    called: bool

    def __call__(cls, *args: Any, **named: Any) -> Any:
        kind: Any = cls
        if cls.called:
            return kind.__new__(kind)
        if named or len(args) != 1 or not isinstance(args[0], str | int | float | tuple):
            raise UnpicklingError(f"GLOBAL {cls.__name__} is called")
        return object()


def _stand_in(name: str, opaque: bool) -> Any:
    """The replacement of a class or function; `opaque`: it accepts any state."""
    # A Counter accepts keys and attributes, like a dict and like an object.
    body: dict[str, Any] = {
        "called": _CALLED.fullmatch(name) is not None,
        "__new__": lambda cls, *args, **named: Counter(),
    }
    if opaque or _OPAQUE.match(name):
        body["__new__"] = lambda cls, *args, **named: object.__new__(cls)
        body["__setstate__"] = lambda self, state: None
    return _StandIn(name, (), body)


def may_stand_in(name: str) -> bool:
    """Whether an object of this class can be plain data: settings, a number, a path, an enum."""
    top, last = name.partition(".")[0], name.rpartition(".")[2]
    if top in sys.stdlib_module_names or top == "numpy":
        return _CALLED.fullmatch(name) is not None
    return last[:1].isupper()


def load(file: Path) -> tuple[Any, list[str]]:
    """The content of a `torch.save` file, and the classes that stand-ins replace in it.

    Raises:
        ValueError: it holds more than plain data; the message explains how to save the weights.
    """
    names: list[str] = []
    opaque = False
    while True:
        try:
            with safe_globals([(_stand_in(name, opaque), name) for name in names]):
                return torch.load(file, map_location="cpu", weights_only=True), names
        except (UnpicklingError, TypeError, AttributeError, ValueError, IndexError) as error:
            found = _missing(file, names, error)
            refused = [name for name in found if not may_stand_in(name)]
            if not found and not opaque:
                opaque = True  # a class with slots stores its state as a list
                continue
            if refused or not found or len(names) + len(found) > MOST:
                raise ValueError(unsafe_message(file, refused or names)) from error
            names += found


def _missing(file: Path, names: list[str], error: Exception) -> list[str]:
    """The classes in the file that have no stand-in yet."""
    try:
        every = get_unsafe_globals_in_checkpoint(file)
    except (ValueError, RuntimeError, UnpicklingError):  # torch's older format: one at a time
        match = re.search(r"GLOBAL (\S+) (?:was not|whose)", str(error))
        every = [match[1]] if match else []
        if match and "." not in match[1]:  # torch leaves out "builtins"
            every = [f"builtins.{match[1]}"]
    return sorted(set(every) - set(names))


def unsafe_message(file: Path, names: Sequence[str]) -> str:
    """The message for a file whose weights cannot be read, and how to save a file that can."""
    what = f" ({', '.join(names[:4])})" if names else ", or is broken"
    text = (
        f"{file.name} holds more than tensors{what}; none of its code was run. "
        "Save it with torch.save(module.state_dict(), path)"
    )
    classes = [name for name in names if name.rpartition(".")[2][:1].isupper()]
    if not names or classes != names or any(_is_system(name) for name in names):
        return text
    return (
        f"{text}. If you trust these classes, read it where they are installed: "
        f"with torch.serialization.safe_globals([{', '.join(names)}]): "
        "torch.load(path, weights_only=True)"
    )


def _is_system(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names
