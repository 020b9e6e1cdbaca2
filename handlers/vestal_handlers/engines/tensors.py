"""Samples, batches and outputs: one tensor, or several as a dict by name or a tuple by position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

Batch = Tensor | Mapping[str, Tensor]
Outputs = Tensor | dict[str, Tensor] | tuple[Tensor, ...]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to one tensor, or to each tensor of a mapping or a sequence."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: function(tensor) for name, tensor in value.items()}
    return tuple(function(tensor) for tensor in value)


def named_tensors(value: Any) -> dict[str, Tensor]:
    """The tensors in a mapping, a dataclass, a named tuple or a sequence, by name or index."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif is_dataclass(value):
        items = ((item.name, getattr(value, item.name)) for item in fields(value))
    elif isinstance(value, tuple | list):
        items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    return {str(name): each for name, each in items if isinstance(each, Tensor)}


def stack(samples: Sequence[Any]) -> Batch:
    """Stack samples of equal shapes: tensors to [N, ...], dicts of tensors to a dict of [N, ...].

    Raises:
        RuntimeError: two samples differ in a shape.
        ValueError: two samples have different keys.
    """
    first = samples[0]
    if not isinstance(first, Mapping):
        return torch.stack(list(samples))
    for sample in samples:
        if not isinstance(sample, Mapping) or sample.keys() != first.keys():
            raise ValueError(
                f"decode() returned samples with different keys for one batch: "
                f"{_keys(first)} and {_keys(sample)}"
            )
    return {name: torch.stack([sample[name] for sample in samples]) for name in first}


def unstack(outputs: Outputs) -> list[Any]:
    """Split outputs [N, ...] into N outputs of the same form: tensors, dicts or tuples.

    Raises:
        ValueError: one of several outputs has no batch dimension, or another number of rows.
    """
    if isinstance(outputs, Tensor):
        return list(outputs.unbind())
    named = named_tensors(outputs)
    shapes = {name: list(tensor.shape) for name, tensor in named.items()}
    if any(not shape for shape in shapes.values()) or len({s[0] for s in shapes.values()}) != 1:
        raise ValueError(
            f"the outputs of the model have the shapes {shapes}, expected the same number of rows "
            "in each; choose one output with handler.output in model-config.yaml"
        )
    rows = zip(*(tensor.unbind() for tensor in named.values()), strict=True)
    if isinstance(outputs, Mapping):
        return [dict(zip(named, row, strict=True)) for row in rows]
    return list(rows)


def row_count(batch: Batch) -> int:
    """The number of rows of a batch, by its first tensor."""
    return len(batch if isinstance(batch, Tensor) else next(iter(batch.values())))


def concatenate(pieces: Sequence[Outputs]) -> Outputs:
    """Concatenate the outputs of consecutive pieces of one batch."""
    first = pieces[0]
    if isinstance(first, Tensor):
        return torch.cat([piece for piece in pieces if isinstance(piece, Tensor)])
    columns = {name: [named_tensors(p)[name] for p in pieces] for name in named_tensors(first)}
    whole = {name: torch.cat(column) for name, column in columns.items()}
    return whole if isinstance(first, dict) else tuple(whole.values())


def _keys(sample: Any) -> str:
    return ", ".join(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
