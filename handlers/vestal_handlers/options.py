"""Options of a handler: a dataclass, read from `handler:` in model-config.yaml and checked.

No validation library here: an archive must load where only TorchServe and torch are installed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

OptionsT = TypeVar("OptionsT", bound="Options")


class OptionError(ValueError):
    """model-config.yaml holds an option that this handler cannot take; the load fails."""


def number(default: Any, *, at_least: float, at_most: float | None = None) -> Any:
    """A dataclass field with bounds."""
    return field(default=default, metadata={"at_least": at_least, "at_most": at_most})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every handler takes.

    Attributes:
        engine: what computes the model; None: by the artifact's suffix.
        threads: CPU threads of this worker; None: its share of the cores (cores / maxWorkers).
        warm_up: run the batch sizes that will come before the worker says READY.
        max_bytes: of one input, as sent.
        max_instances: of one request.
    """

    engine: str | None = None
    threads: int | None = number(None, at_least=1)
    warm_up: bool = True
    max_bytes: int = number(20_000_000, at_least=1)
    max_instances: int = number(256, at_least=1)


def read_options(kind: type[OptionsT], given: object) -> OptionsT:
    """Checks what stands under `handler:` against the dataclass `kind`.

    Raises:
        OptionError: an unknown key, a value of another type or out of its bounds, by name.
    """
    if given is None:
        return kind()
    if not isinstance(given, Mapping):
        raise OptionError(f"handler: in model-config.yaml must be a mapping, not {given!r}")
    hints = get_type_hints(kind)
    bounds = {item.name: item.metadata for item in fields(kind)}
    for name, value in given.items():
        if name not in bounds:
            near = difflib.get_close_matches(str(name), bounds, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise OptionError(
                f"handler.{name} in model-config.yaml is not an option: {hint}"
                f"the options are {', '.join(sorted(bounds))}"
            )
        _check(name, value, hints[name], bounds[name])
    return kind(**given)


def _check(name: str, value: object, hint: Any, bounds: Mapping[str, Any]) -> None:
    allowed = get_args(hint) or (hint,)
    # bool is an int to Python, and a YAML integer is a fine float.
    fits = type(value) in allowed or (type(value) is int and float in allowed)
    if not fits:
        names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in allowed)
        raise OptionError(
            f"handler.{name} in model-config.yaml must be {names}, "
            f"not {value!r} ({type(value).__name__})"
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = bounds.get("at_least"), bounds.get("at_most")
        if (low is not None and value < low) or (high is not None and value > high):
            limit = f"at least {low}" + ("" if high is None else f" and at most {high}")
            raise OptionError(f"handler.{name} in model-config.yaml must be {limit}, not {value}")
