"""What the engines that run a torch module share: precision, memory layout, description."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vestal_handlers.engines.batches import Batches
from vestal_handlers.engines.outputs import pick

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}


class ModuleEngine:
    """A torch module on its device; bf16 and fp16 are computed by autocast.

    Args:
        name: of the engine.
        batches: what the module takes; one of a fixed size is split for and gives no `module`.
        channels_last: image batches [N, C, H, W] are laid out so before the forward.
        dtype: of the module's input, which batches are turned into; None: they stay as they are.
        output: the name or index of the output that is served; None: the only one.
        artifact: the file's name, for errors.
        built_for: further facts for `describe`.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        device: torch.device,
        precision: str,
        *,
        batches: Batches | None = None,
        channels_last: bool = False,
        dtype: torch.dtype | None = None,
        output: str | int | None = None,
        artifact: str = "model.py",
        **built_for: Any,
    ) -> None:
        if precision != "fp32" and dtype in NAMES:
            raise ValueError(
                f"the {name} engine cannot compute in {precision!r}: the precision of {artifact} "
                f"is its own, {NAMES[dtype]}; leave handler.precision out"
            )
        self.batches = batches or Batches()
        # Explanations run batches of their own sizes through it.
        self.module = module if self.batches == Batches() else None
        self._module = module
        self._dtype, self._output, self._artifact = dtype, output, artifact
        self._name, self._device, self._precision = name, device, precision
        self._channels_last = channels_last
        self._built_for = built_for

    def __call__(self, batch: Tensor) -> Tensor:
        if self._channels_last and batch.dim() == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            output = self.batches.run(self._forward, batch)
        return output.float() if output.dtype in NAMES else output

    def _forward(self, batch: Tensor) -> Tensor:
        given = batch if self._dtype is None else batch.to(self._dtype)
        return pick(self._module(given), self._output, self._artifact)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, DTYPES[self._precision])

    def describe(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "precision": NAMES.get(self._dtype, self._precision)
            if self._dtype
            else self._precision,
            "device": str(self._device),
            "threads": torch.get_num_threads(),
            "runtime": f"torch {torch.__version__}",
            "built_for": {"batch": self.batches.describe(), **self._built_for},
        }


def check_precision(engine: str, precision: str, device: torch.device) -> None:
    """Raises ValueError where a torch engine cannot compute so on that device."""
    possible = PRECISIONS.get(device.type, ("fp32",))
    if precision not in possible:
        raise ValueError(
            f"the {engine} engine cannot compute in {precision!r} on {device.type}: "
            f"handler.precision can be {', '.join(possible)} there"
        )


def first_line(error: BaseException) -> str:
    """An exception in one short line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
