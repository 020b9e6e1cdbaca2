"""Checkpoints that hold settings beside their weights: argparse, numpy numbers, dataclasses.

torch.load stays at `weights_only=True`. Of the further classes it asks for, plain data becomes
stand-ins, which keep nothing and run nothing: no class of a checkpoint is ever imported.
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
# Functions and classes that are called with their values; whatever else is a class of the user's.
_CALLED = re.compile(
    r"numpy(\._?core)?(\.multiarray|\.numeric|\.dtypes)?\.\w+|numpy\.random\._pickle\.\w+"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|argparse\.Namespace|types\.SimpleNamespace"
    r"|collections\.(defaultdict|deque)|datetime\.\w+|decimal\.Decimal|fractions\.Fraction"
    r"|uuid\.UUID|builtins\.(list|dict|tuple|frozenset|range|slice|int|float|str|bool|bytes|object)"
    r"|typing\.Any|copyreg\._reconstructor|copy_reg\._reconstructor|zoneinfo\.ZoneInfo"
)


class _StandIn(type):
    """The type of stand-ins. One is called only for plain data and for a member of an enum."""

    called: bool

    def __call__(cls, *args: Any, **named: Any) -> Any:
        kind: Any = cls
        if cls.called:
            return kind.__new__(kind)
        if named or len(args) != 1 or not isinstance(args[0], str | int | float | tuple):
            raise UnpicklingError(f"GLOBAL {cls.__name__} is called")
        return object()


def _stand_in(name: str, opaque: bool) -> Any:
    """What takes the place of a class or function of that name; `opaque`: it takes any state."""
    # A Counter takes keys and attributes, as a dict or an object would.
    body: dict[str, Any] = {
        "called": _CALLED.fullmatch(name) is not None,
        "__new__": lambda cls, *args, **named: Counter(),
    }
    if opaque or _OPAQUE.match(name):
        body["__new__"] = lambda cls, *args, **named: object.__new__(cls)
        body["__setstate__"] = lambda self, state: None
    return _StandIn(name, (), body)


def may_stand_in(name: str) -> bool:
    """Whether an object of that class may be plain data: settings, a number, a path, an enum."""
    top, last = name.partition(".")[0], name.rpartition(".")[2]
    if top in sys.stdlib_module_names or top == "numpy":
        return _CALLED.fullmatch(name) is not None
    return last[:1].isupper()


def load(file: Path) -> tuple[Any, list[str]]:
    """What `torch.save` wrote, with stand-ins for plain data; and the names that they stand for.

    Raises:
        ValueError: it holds more than that; the message says how to save the weights alone.
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
                opaque = True  # a class with slots has a list as its state
                continue
            if refused or not found or len(names) + len(found) > MOST:
                raise ValueError(more_than_tensors(file, refused or names)) from error
            names += found


def _missing(file: Path, names: list[str], error: Exception) -> list[str]:
    """The classes that the file asks for and that have no stand-in yet."""
    try:
        every = get_unsafe_globals_in_checkpoint(file)
    except (ValueError, RuntimeError, UnpicklingError):  # of torch's older format: one by one
        told = re.search(r"GLOBAL (\S+) (?:was not|whose)", str(error))
        every = [told[1]] if told else []
        if told and "." not in told[1]:  # torch leaves the word out
            every = [f"builtins.{told[1]}"]
    return sorted(set(every) - set(names))


def more_than_tensors(file: Path, names: Sequence[str]) -> str:
    """The message for a file whose weights cannot be read, with the way to a file that can."""
    what = f" ({', '.join(names[:4])})" if names else ", or is broken"
    text = (
        f"{file.name} holds more than tensors{what}; nothing of it was run: "
        "save it as torch.save(module.state_dict(), path)"
    )
    classes = [name for name in names if name.rpartition(".")[2][:1].isupper()]
    if not names or classes != names or any(_is_system(name) for name in names):
        return text
    return (
        f"{text}. To read it where these classes are installed, and if you trust them: "
        f"with torch.serialization.safe_globals([{', '.join(names)}]): "
        "torch.load(path, weights_only=True)"
    )


def _is_system(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names
