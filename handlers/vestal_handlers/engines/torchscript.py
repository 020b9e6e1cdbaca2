"""TorchScript: an artifact of `torch.jit.save`, which carries its own architecture."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch


class TorchScriptEngine:
    """A scripted or traced module in eval mode."""

    def __init__(self, module: torch.jit.ScriptModule, device: torch.device) -> None:
        self.module = module
        self.device = device

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.module(batch)
        return output

    def describe(self) -> dict[str, Any]:
        return {
            "name": "torchscript",
            "precision": "fp32",
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }


def load(artifact: Path, device: torch.device, precision: str = "fp32") -> TorchScriptEngine:
    """Loads a TorchScript file onto a device.

    Raises:
        ValueError: a precision other than fp32. What torch says of a broken file comes through.
    """
    if precision != "fp32":
        raise ValueError(f"the torchscript engine computes in fp32, not {precision}")
    with warnings.catch_warnings():
        # Deprecated since torch 2.15, and what this engine is for.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        module = torch.jit.load(str(artifact), map_location=device)  # type: ignore[no-untyped-call]
    return TorchScriptEngine(module.eval(), device)
