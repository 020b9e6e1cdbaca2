"""The outputs of a model that are served: one of them, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vestal_handlers.engines.tensors import Outputs, named_tensors

_SHOWN = 8  # outputs in an error message


def choose_output(names: Sequence[str], output: str | int | None, artifact: str) -> str:
    """The name of the output that is served.

    Args:
        names: the names of all outputs, or their indices.
        output: a name or an index; None: the only one.
        artifact: the file's name, for messages.

    Raises:
        ValueError: there is no such output, or several and none was chosen.
    """
    if output is None and len(names) == 1:
        return names[0]
    if isinstance(output, int) and 0 <= output < len(names):
        return names[output]
    if output in names:
        return str(output)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    outputs = f"{len(names)} outputs ({', '.join(names[:_SHOWN])}{more})"
    if output is not None:
        raise ValueError(f"{artifact} has no output {output!r} (handler.output); it has {outputs}")
    raise ValueError(
        f"{artifact} has {outputs}, but only one is served. "
        f"Choose it with handler.output in model-config.yaml (output: {names[0]})"
    )


def select_output(value: Any, output: str | int | None, artifact: str) -> Tensor:
    """Return the chosen tensor of the value that a model returned.

    The tensors of a tuple or list have their indices as names; those of a dict, a named tuple or a
    dataclass have their own. Other values are ignored.

    Raises:
        ValueError: see `choose_output`; or there is no tensor.
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
    named = named_tensors(value)
    if not named:
        raise ValueError(
            f"{artifact} returns a {type(value).__name__} without a tensor, expected a tensor, "
            "or a tuple or dict of tensors"
        )
    return named
