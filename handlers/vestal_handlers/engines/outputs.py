"""The outputs of a model that are served: one of them, or all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from vestal_handlers.engines.tensors import Outputs

NAMED = 8  # outputs in an error message


def choose_output(names: Sequence[str], output: str | int | None, artifact: str) -> str:
    """The name of the output that is served.

    Args:
        names: of all outputs; their indices, where they have no names.
        output: a name or an index; None: the only one.
        artifact: the file's name, for the error.

    Raises:
        ValueError: no such output, or several and none was chosen; the message names them.
    """
    if output is None and len(names) == 1:
        return names[0]
    if isinstance(output, int) and 0 <= output < len(names):
        return names[output]
    if output in names:
        return str(output)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    found = f"{len(names)} outputs ({', '.join(names[:NAMED])}{more})"
    if output is not None:
        raise ValueError(f"{artifact} has no output {output!r} (handler.output); it has {found}")
    raise ValueError(
        f"{artifact} has {found}, but only one is served. "
        f"Choose it with handler.output in model-config.yaml (output: {names[0]})"
    )


def select_output(value: Any, output: str | int | None, artifact: str) -> Tensor:
    """The tensor that is served of the value that a model returned.

    The tensors of a tuple or list have their indices as names; those of a dict, a named tuple or a
    dataclass have their own. Other values are ignored.

    Raises:
        ValueError: as from `choose_output`, or there is no tensor.
    """
    if isinstance(value, Tensor):
        if output not in (None, 0, "0"):
            choose_output(["0"], output, artifact)
        return value
    named = _named(value, artifact)
    return named[choose_output(list(named), output, artifact)]


def all_outputs(value: Any, artifact: str) -> Outputs:
    """All tensors that a model returned: one tensor, a tuple, or a dict where they have names.

    Raises:
        ValueError: there is no tensor.
    """
    if isinstance(value, Tensor):
        return value
    named = _named(value, artifact)
    is_unnamed = isinstance(value, tuple | list) and not hasattr(value, "_fields")
    return tuple(named.values()) if is_unnamed else named


def _named(value: Any, artifact: str) -> dict[str, Tensor]:
    named = {str(name): each for name, each in _items(value) if isinstance(each, Tensor)}
    if not named:
        raise ValueError(
            f"{artifact} returns a {type(value).__name__} without a tensor, expected a tensor, "
            "or a tuple or dict of tensors"
        )
    return named


def _items(value: Any) -> Sequence[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if is_dataclass(value):
        return [(item.name, getattr(value, item.name)) for item in fields(value)]
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        return list(zip(names, value, strict=True))
    return []
