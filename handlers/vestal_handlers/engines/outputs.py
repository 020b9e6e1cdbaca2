"""The one output that is served of a model that returns several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

NAMED = 8  # outputs in an error message


def choose(names: Sequence[str], output: str | int | None, source: str) -> str:
    """The name of the output that is served.

    Args:
        names: of all outputs; their indices, where they have no names.
        output: a name or an index; None: the only one.
        source: the artifact's name, for the error.

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
        raise ValueError(f"{source} has no output {output!r} (handler.output); it has {found}")
    raise ValueError(
        f"{source} has {found}, and one is served: "
        f"choose it with handler.output in model-config.yaml (output: {names[0]})"
    )


def pick(value: Any, output: str | int | None, source: str) -> Tensor:
    """The tensor that is served of what a model returned, `value`.

    A tuple's and a list's tensors have their indices as names; a dict's, a named tuple's and a
    dataclass's have their own. What is no tensor does not count.

    Raises:
        ValueError: as from `choose`, or there is no tensor.
    """
    if isinstance(value, Tensor):
        if output not in (None, 0, "0"):
            choose(["0"], output, source)
        return value
    named = {str(name): each for name, each in _items(value) if isinstance(each, Tensor)}
    if not named:
        raise ValueError(
            f"{source} returns a {type(value).__name__} without a tensor in it, expected a tensor, "
            "or a tuple or dict of tensors"
        )
    return named[choose(list(named), output, source)]


def _items(value: Any) -> Sequence[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return list(value.items())
    if is_dataclass(value):
        return [(item.name, getattr(value, item.name)) for item in fields(value)]
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", range(len(value)))
        return list(zip(names, value, strict=True))
    return []
