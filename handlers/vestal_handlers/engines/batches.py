"""The batch sizes that an artifact was built for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batches:
    """From `least` to `most` rows (None: no limit); other batches are split and filled up."""

    least: int = 1
    most: int | None = None

    def describe(self) -> str:
        """`any`, `4`, `2 to 8` or `at least 2`."""
        if self.most is None:
            return "any" if self.least <= 1 else f"at least {self.least}"
        return f"{self.most}" if self.least == self.most else f"{self.least} to {self.most}"

    def warn(self, artifact: Path) -> Batches:
        """Says in the log that larger batches will be split; gives itself."""
        if self.most is not None:
            logger.warning(
                "%s takes batches of %s: larger ones are split, which is slower; "
                "export it with a dynamic batch dimension",
                artifact.name,
                self.describe(),
            )
        return self

    def run(self, forward: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """`forward` on a batch [N, ...] of any size, in pieces where it must be."""
        if self.least <= len(batch) and (self.most is None or len(batch) <= self.most):
            return forward(batch)
        pieces = torch.split(batch, self.most) if self.most else (batch,)
        return torch.cat([forward(self._filled(piece))[: len(piece)] for piece in pieces])

    def _filled(self, piece: Tensor) -> Tensor:
        """Repeats the last row up to `least` rows."""
        missing = self.least - len(piece)
        if missing <= 0:
            return piece
        return torch.cat([piece, piece[-1:].expand(missing, *piece.shape[1:])])
