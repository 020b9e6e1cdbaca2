"""Engines: what computes a model's forward. One small module each.

`load(artifact, device, precision)` gives an `Engine`, which is called with a batch and says what
it is. An engine is found by its name or by the artifact's suffix.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import torch

BY_SUFFIX = {".pt": "torchscript"}


class Engine(Protocol):
    """A loaded model, ready to compute."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """One forward: a batch of inputs [N, ...] on the engine's device gives outputs [N, ...]."""

    def describe(self) -> dict[str, Any]:
        """`name`, `precision`, `device`, `threads`, and what it was built for."""


def load(
    artifact: Path, device: torch.device, precision: str = "fp32", name: str | None = None
) -> Engine:
    """Loads an artifact with the engine of that name (None: by the artifact's suffix).

    Raises:
        ValueError: no such engine, or none for that suffix.
    """
    name = name or BY_SUFFIX.get(artifact.suffix)
    if name not in BY_SUFFIX.values():
        wanted = f"engine {name!r}" if name else f"an engine for *{artifact.suffix}"
        raise ValueError(
            f"no {wanted} ({artifact.name}): the engines are "
            + ", ".join(f"{engine} (*{suffix})" for suffix, engine in BY_SUFFIX.items())
        )
    module = importlib.import_module(f"vestal_handlers.engines.{name}")
    engine: Engine = module.load(artifact, device, precision)
    return engine
