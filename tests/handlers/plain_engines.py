"""Minimal engines for tests that do not depend on a file format."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class WithGradients:
    """An engine with a module to differentiate, as the eager engine has."""

    def __init__(self, module: nn.Module | None) -> None:
        self.module = module

    def __call__(self, batch: Any) -> Any:
        assert self.module is not None
        return self.module(**batch) if isinstance(batch, dict) else self.module(batch)

    def describe(self) -> dict[str, Any]:
        return {"name": "fake"}


class WithoutGradients(WithGradients):
    """An engine that only computes, as ONNX Runtime's does.

    Attributes:
        sizes: the number of rows of each batch so far.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(None)
        self._plain, self.sizes = WithGradients(module), list[int]()

    def __call__(self, batch: Any) -> Any:
        first = next(iter(batch.values())) if isinstance(batch, dict) else batch
        self.sizes.append(len(first))
        assert not torch.is_grad_enabled() or not first.requires_grad
        with torch.inference_mode():
            return self._plain(batch)
