"""The engines' common part for torch modules: precision, memory layout, description."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vestal_handlers.engines.batches import BatchLimits
from vestal_handlers.engines.inputs import ModelInputs, inputs_of_module
from vestal_handlers.engines.outputs import all_outputs, select_output
from vestal_handlers.engines.tensors import Batch, Outputs, map_tensors

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NAMES: dict[torch.dtype | None, str] = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
}
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}

Arguments = tuple[Sequence[Tensor], Mapping[str, Tensor]]


class ModuleEngine:
    """A torch module on its device; bf16 and fp16 use autocast.

    Args:
        name: the name of the engine.
        computes: a compiled form of the module, which computes batches; None: the module itself.
        batches: the batch sizes of the module. With a limit, larger batches are split, and the
            attribute `module` is None.
        channels_last: image batches [N, C, H, W] are converted to this memory layout.
        dtype: what the artifact was saved in; None: unknown.
        inputs: the named inputs of the module; None: the parameters of its `forward`.
        arrange: converts named inputs to the module's arguments; None: keyword arguments.
        output: the name or index of the output that is served; None: the only one.
        all_outputs: serve all outputs: a tuple, or a dict where they have names.
        artifact: the file's name, for messages.
        built_for: further entries of `built_for` in `describe`.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        device: torch.device,
        precision: str,
        *,
        computes: Callable[..., Any] | None = None,
        batches: BatchLimits | None = None,
        channels_last: bool = False,
        dtype: torch.dtype | None = None,
        inputs: ModelInputs | None = None,
        arrange: Callable[[dict[str, Tensor]], Arguments] | None = None,
        output: str | int | None = None,
        all_outputs: bool = False,
        artifact: str = "model.py",
        **built_for: Any,
    ) -> None:
        if precision != "fp32" and dtype in NAMES:
            raise ValueError(
                f"the {name} engine does not support handler.precision: {precision}; {artifact} "
                f"was saved in {NAMES[dtype]} and keeps that precision. Remove the option"
            )
        self.batches = batches or BatchLimits()
        # Explanations run batches of any size through the module.
        self.module = module if self.batches == BatchLimits() else None
        self._computes = module if computes is None else computes
        self._inputs = inputs or inputs_of_module(module, artifact)
        self._arrange, self._all_outputs = arrange, all_outputs
        self._dtype, self._output, self._artifact = dtype, output, artifact
        self._name, self._device, self._precision = name, device, precision
        self._channels_last = channels_last
        self._built_for = built_for

    def __call__(self, batch: Batch) -> Outputs:
        if self._channels_last:
            batch = map_tensors(_channels_last, batch)
        with self._autocast():
            outputs = self.batches.run(self._forward, batch)
        return map_tensors(as_fp32, outputs)  # type: ignore[no-any-return]

    def _forward(self, batch: Batch) -> Outputs:
        value = self._call(batch)
        if self._all_outputs:
            return all_outputs(value, self._artifact)
        return select_output(value, self._output, self._artifact)

    def _call(self, batch: Batch) -> Any:
        if isinstance(batch, Tensor):
            return self._computes(self._inputs.cast_single(batch))
        named = self._inputs.bind(batch)
        arguments, keywords = self._arrange(named) if self._arrange else ((), named)
        return self._computes(*arguments, **keywords)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, DTYPES[self._precision])

    def describe(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "precision": NAMES.get(self._dtype, self._precision),
            "device": str(self._device),
            "threads": torch.get_num_threads(),
            "runtime": f"torch {torch.__version__}",
            "built_for": {
                "batch": self.batches.describe(),
                **self._inputs.describe(),
                **{name: each for name, each in self._built_for.items() if each is not None},
            },
        }


def as_fp32(output: Tensor) -> Tensor:
    """Floating-point outputs of another precision as fp32; others unchanged."""
    return output.float() if output.dtype in NAMES else output


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def check_precision(engine: str, precision: str, device: torch.device) -> None:
    """Raise ValueError if torch engines do not support a precision on that device."""
    possible = PRECISIONS.get(device.type, ("fp32",))
    if precision not in possible:
        raise ValueError(
            f"the {engine} engine does not support handler.precision: {precision} on "
            f"{device.type}; use one of {', '.join(possible)}"
        )
