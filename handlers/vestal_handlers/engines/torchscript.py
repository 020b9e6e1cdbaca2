"""TorchScript: an artifact of `torch.jit.save`, which carries its own architecture."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from vestal_handlers.engines.torch_module import ModuleEngine, check_precision, first_line


def load(artifact: Path, device: torch.device, precision: str = "fp32") -> ModuleEngine:
    """Loads a TorchScript file onto a device, in eval mode.

    Raises:
        ValueError: not TorchScript, or a precision that the device cannot compute in.
    """
    check_precision("torchscript", precision, device)
    with warnings.catch_warnings():
        # Deprecated since torch 2.15, and what this engine is for.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        try:
            module = torch.jit.load(str(artifact), map_location=device)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise ValueError(
                f"{artifact.name} is not a TorchScript file (torch.jit.save): {first_line(error)} "
                "(weights alone, a state_dict, are for handler.engine: eager)"
            ) from error
    return ModuleEngine("torchscript", module.eval(), device, precision)
