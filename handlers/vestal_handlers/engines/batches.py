"""The batch sizes that an artifact was built for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vestal_handlers.engines.tensors import Batch, Outputs, concatenate, map_tensors, row_count

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """Batches of `least` to `most` rows (None: no limit); others are split and padded."""

    least: int = 1
    most: int | None = None

    @classmethod
    def shared(cls, limits: Iterable[BatchLimits], artifact: Path) -> BatchLimits:
        """Combine the limits of a model's inputs.

        Raises:
            ValueError: no batch size fits all inputs.
        """
        limits = list(limits)
        least = max(each.least for each in limits)
        most = min((each.most for each in limits if each.most is not None), default=None)
        if most is not None and least > most:
            sizes = " and ".join(dict.fromkeys(each.describe() for each in limits))
            raise ValueError(
                f"{artifact.name} has inputs with different batch sizes ({sizes}); "
                "export it with the same batch dimension in every input"
            )
        return cls(least, most)

    def describe(self) -> str:
        """`any`, `4`, `2 to 8` or `at least 2`."""
        if self.most is None:
            return "any" if self.least <= 1 else f"at least {self.least}"
        return f"{self.most}" if self.least == self.most else f"{self.least} to {self.most}"

    def warn(self, artifact: Path) -> BatchLimits:
        """Log a warning if larger batches will be split; return `self`."""
        if self.most is not None:
            logger.warning(
                "%s takes batches of %s: larger ones are split, which is slower; "
                "export it with a dynamic batch dimension",
                artifact.name,
                self.describe(),
            )
        return self

    def run(self, forward: Callable[[Batch], Outputs], batch: Batch) -> Outputs:
        """Run `forward` on a batch [N, ...] of any size, in several pieces if necessary."""
        count = row_count(batch)
        if self.least <= count and (self.most is None or count <= self.most):
            return forward(batch)
        size = self.most or count
        outputs: list[Outputs] = []
        for start in range(0, count, size):
            rows = min(size, count - start)
            output = forward(self._padded(batch, start, rows))
            outputs.append(_first(output, rows))
        return concatenate(outputs)

    def _padded(self, batch: Batch, start: int, rows: int) -> Batch:
        """`rows` rows from `start` on, the last one repeated up to `least` rows."""
        missing = max(0, self.least - rows)

        def padded(tensor: Tensor) -> Tensor:
            piece = tensor[start : start + rows]
            if not missing:
                return piece
            return torch.cat([piece, piece[-1:].expand(missing, *piece.shape[1:])])

        return map_tensors(padded, batch)  # type: ignore[no-any-return]


def _first(outputs: Outputs, rows: int) -> Outputs:
    return map_tensors(lambda tensor: tensor[:rows], outputs)  # type: ignore[no-any-return]
