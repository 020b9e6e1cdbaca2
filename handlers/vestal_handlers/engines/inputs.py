"""The named inputs of a model; a dict of tensors is checked against them and cast."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        shape: the sides after the batch dimension, None for a side that may vary; None: unknown.
        dtype: what the model computes with; None: unknown.
        required: whether the model has no default for it.
    """

    name: str
    shape: tuple[int | None, ...] | None = None
    dtype: torch.dtype | None = None
    required: bool = True


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of a model, in its order.

    Attributes:
        accepts_others: the model has `**kwargs`, so other names may be passed.
        float_dtype: floating-point tensors without a dtype of their own are cast to it.
    """

    artifact: str
    inputs: Sequence[ModelInput] = ()
    accepts_others: bool = False
    float_dtype: torch.dtype | None = None

    @property
    def several(self) -> bool:
        """Whether the model needs more than one input, so that one tensor is not enough."""
        return sum(each.required for each in self.inputs) > 1

    def cast_single(self, batch: Tensor) -> Tensor:
        """Cast a batch [N, ...] of the model's only input to the model's dtype.

        Raises:
            ValueError: the model needs several inputs.
        """
        if self.several:
            raise ValueError(
                f"{self.artifact} takes {len(self.inputs)} inputs ({self._names()}), but got one "
                "tensor: decode() and example_input() must return a dict of tensors with these keys"
            )
        dtype = self._dtype_of(self.inputs[0] if self.inputs else ModelInput(""), batch)
        return batch if dtype is None else batch.to(dtype)

    def bind(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Check a batch [N, ...] of each input, and cast it to the model's dtypes.

        Raises:
            ValueError: a missing or an unknown input, another shape, or floating-point numbers for
                an integer input.
        """
        known = {each.name: each for each in self.inputs}
        missing = [n for n, each in known.items() if each.required and n not in batch]
        unknown = [] if self.accepts_others else [n for n in batch if n not in known]
        if missing or unknown:
            wrong = "missing" if missing else "unknown"
            raise ValueError(
                f"{self.artifact}: the sample has the inputs {', '.join(batch)}; "
                f"{', '.join(missing or unknown)} is {wrong}. The inputs of the model are "
                f"{self._names()}"
            )
        ordered = [name for name in known if name in batch] + [n for n in batch if n not in known]
        return {n: self._cast(known.get(n, ModelInput(n)), batch[n]) for n in ordered}

    def describe(self) -> dict[str, Any]:
        """`{"inputs": {name: shape}}` if the model needs several inputs, else an empty dict.

        A shape has no batch dimension; a side that may vary is None, and so is an unknown shape.
        """
        if not self.several:
            return {}
        shapes = {each.name: each.shape for each in self.inputs}
        return {"inputs": {n: None if s is None else list(s) for n, s in shapes.items()}}

    def _cast(self, expected: ModelInput, tensor: Tensor) -> Tensor:
        where = f"{self.artifact}: input {expected.name!r}"
        sides = tuple(tensor.shape[1:])
        if expected.shape is not None and (
            len(sides) != len(expected.shape)
            or any(e not in (None, s) for e, s in zip(expected.shape, sides, strict=True))
        ):
            shown = ["any" if side is None else side for side in expected.shape]
            raise ValueError(
                f"{where} has the shape [{_listed(sides)}] per sample, expected [{_listed(shown)}]"
            )
        dtype = self._dtype_of(expected, tensor)
        if dtype is None:
            return tensor
        if tensor.is_floating_point() and not dtype.is_floating_point:
            raise ValueError(f"{where} has the dtype {tensor.dtype}, expected {dtype}")
        return tensor.to(dtype)

    def _dtype_of(self, expected: ModelInput, tensor: Tensor) -> torch.dtype | None:
        """The dtype to cast a tensor to; None: unchanged, as integers may be token ids."""
        return expected.dtype or (self.float_dtype if tensor.is_floating_point() else None)

    def _names(self) -> str:
        return ", ".join(each.name for each in self.inputs)


def inputs_of_module(module: nn.Module, artifact: str) -> ModelInputs:
    """The parameters of a module's `forward`."""
    parameters = inspect.signature(module.forward).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return ModelInputs(
        artifact,
        [
            ModelInput(each.name, required=each.default is inspect.Parameter.empty)
            for each in parameters
            if each.kind not in variable
        ],
        accepts_others=any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters),
    )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
