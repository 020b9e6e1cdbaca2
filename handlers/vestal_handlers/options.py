"""The options of a handler: a dataclass, read from `handler:` in model-config.yaml and validated.

No validation library is used, because archives must load where only TorchServe and torch are
installed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

OptionsT = TypeVar("OptionsT", bound="Options")


class OptionError(ValueError):
    """An option in model-config.yaml is not valid for this handler; the load fails."""


def number(default: Any, *, at_least: float, at_most: float | None = None) -> Any:
    """A dataclass field with bounds."""
    return field(default=default, metadata={"at_least": at_least, "at_most": at_most})


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of every handler.

    Attributes:
        engine: the name of the engine; None: by the suffix of the artifact.
        precision: fp32, bf16, fp16 or int8, as far as the engine supports it.
        output: the name or index of the model's output that is served; None: the only one.
        channels_last: the memory layout of image models on the eager engine; faster convolutions.
        threads: CPU threads of this worker; None: its share of the cores (cores / workers).
        warm_up: run every batch size before the worker is READY.
        max_forward: instances in one forward pass; more take several passes.
        max_bytes: bytes of one request, all parts together, as sent and decompressed.
        max_json_bytes: bytes of one JSON body, which takes up to 30 times its size in memory.
        max_values: numbers, strings, arrays and objects in one JSON body; fields of one form.
        max_instances: instances of one request.
        max_explained: instances of one request for explanations, which take many passes each.
        max_response_bytes: bytes of a batch's responses together; above its `max_response_size`,
            6,553,500 by default, TorchServe kills the worker.
        max_depth: nesting of arrays and objects in a JSON body.
    """

    engine: str | None = None
    precision: str = "fp32"
    output: str | int | None = None
    channels_last: bool = False
    threads: int | None = number(None, at_least=1)
    warm_up: bool = True
    max_forward: int = number(64, at_least=1)
    max_bytes: int = number(20_000_000, at_least=1)
    max_json_bytes: int = number(10_000_000, at_least=1)
    max_values: int = number(2_000_000, at_least=1)
    max_instances: int = number(256, at_least=1)
    max_explained: int = number(16, at_least=1)
    max_response_bytes: int = number(6_500_000, at_least=1000)
    max_depth: int = number(32, at_least=1, at_most=500)


def read_options(kind: type[OptionsT], section: object) -> OptionsT:
    """Read the options under `handler:` into the dataclass `kind`.

    Raises:
        OptionError: an unknown or missing option, or a value of another type or out of bounds.
    """
    section = {} if section is None else section
    if not isinstance(section, Mapping):
        raise OptionError(f"handler: in model-config.yaml must be a mapping, not {section!r}")
    hints = get_type_hints(kind)
    bounds = {item.name: item.metadata for item in fields(kind)}
    for name, value in section.items():
        if name not in bounds:
            near = difflib.get_close_matches(str(name), bounds, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise OptionError(
                f"handler.{name} in model-config.yaml is not an option: {hint}"
                f"the options are {', '.join(sorted(bounds))}"
            )
        _check(name, value, hints[name], bounds[name])
    for item in fields(kind):
        if item.default is MISSING and item.default_factory is MISSING and item.name not in section:
            raise OptionError(
                f"handler.{item.name} in model-config.yaml is missing: this handler needs it "
                f"({_type_name(hints[item.name])})"
            )
    return kind(**section)


def _check(name: str, value: object, hint: Any, bounds: Mapping[str, Any]) -> None:
    if not _fits(value, hint):
        raise OptionError(
            f"handler.{name} in model-config.yaml must be {_type_name(hint)}, "
            f"not {value!r} ({type(value).__name__})"
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = bounds.get("at_least"), bounds.get("at_most")
        if (low is not None and value < low) or (high is not None and value > high):
            limit = f"at least {low}" + ("" if high is None else f" and at most {high}")
            raise OptionError(f"handler.{name} in model-config.yaml must be {limit}, not {value}")


def _fits(value: object, hint: Any) -> bool:
    """`hint` is a scalar type, `list[...]`, `dict[...]`, a `Literal`, or a union of these."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is list:
        return type(value) is list and all(_fits(item, inner[0]) for item in value)
    if kind is dict:
        return type(value) is dict and all(
            _fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items()
        )
    if kind is Literal:
        return value in inner and type(value) in {type(choice) for choice in inner}
    if inner:
        return any(_fits(value, choice) for choice in inner)
    # bool is a subclass of int, and a YAML integer is a valid float.
    return type(value) is hint or (hint is float and type(value) is int)


def _type_name(hint: Any) -> str:
    kind, inner = get_origin(hint), get_args(hint)
    if kind is list:
        return f"a list of {_type_name(inner[0])}"
    if kind is dict:
        return f"a mapping of {_type_name(inner[0])} to {_type_name(inner[1])}"
    if kind is Literal:
        return " or ".join(map(repr, inner))
    if inner:
        return " or ".join(_type_name(choice) for choice in inner)
    return "null" if hint is NoneType else str(hint.__name__)
