"""Export the model of a Hugging Face folder to ONNX, with the inputs of its own handler."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestal.errors import VestalError
from vestal.files.storage import atomic_write
from vestal.inprocess.loaded_archive import load_staged
from vestal.weights.saving import without_traces

TRACED = 2  # rows; torch.export takes a side of 1 for a constant


class _Named(nn.Module):
    """Calls a model by keyword, and returns its tensors as a tuple."""

    def __init__(self, model: nn.Module, names: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        returned = self.model(**dict(zip(self.names, arguments, strict=True)))
        return tuple(returned[name] for name in self.outputs)


def export(staged: Path, target: Path) -> Path:
    """Write the model that a staged archive's handler loads as an .onnx file; return its path.

    The batch may have any size, and texts any length. Inputs and outputs keep their names.

    Raises:
        VestalError: the model generates text, or torch cannot export it.
    """
    with load_staged(staged, staged.name, batch_size=1) as loaded:
        handler = loaded.handler
        module = getattr(handler.engine, "module", None)
        if module is None or getattr(module, "can_generate", bool)():
            raise VestalError("the model generates text, which only transformers runs")
        inputs = _inputs_of(handler.example_input(), module)
        with torch.inference_mode():
            returned = module(**inputs)
        outputs = [name for name, value in returned.items() if isinstance(value, Tensor)]
        named = _Named(module, list(inputs), outputs).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations in the exporter
            program = torch.onnx.export(
                named,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=(tuple(_dynamic(each) for each in inputs.values()),),
                external_data=False,
                verbose=False,
            )
    assert program is not None
    without_traces(program.model)
    with atomic_write(target) as fresh:
        program.save(str(fresh), external_data=False)
    return target


def _inputs_of(sample: Any, module: nn.Module) -> dict[str, Tensor]:
    """The inputs [2, ...] for a sample of the handler; a text of one token gets a second."""
    if isinstance(sample, Tensor):
        name = str(getattr(module, "main_input_name", "pixel_values"))
        return {name: torch.stack([sample] * TRACED)}
    rows = getattr(sample, "rows", None)
    row: Mapping[str, Tensor] = rows[0] if rows else sample
    return {name: torch.stack([_at_least_two(each)] * TRACED) for name, each in row.items()}


def _at_least_two(tensor: Tensor) -> Tensor:
    return tensor.repeat(3) if tensor.ndim == 1 and len(tensor) < TRACED else tensor


def _dynamic(tensor: Tensor) -> dict[int, Any]:
    """The sides that may vary: the batch, and the length of token ids [N, length]."""
    sides = {0: torch.export.Dim("batch", min=1)}
    return sides | ({1: torch.export.Dim("length", min=2)} if tensor.ndim == 2 else {})
