"""Two models of one task, the larger and the smaller, by the same figures at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from vestal.recipes.recipe import Recipe, Splits
from vestal.runs import Run
from vestal.training.distilling import Teacher
from vestal.training.loading import Transform, fetch
from vestal.training.loop import measure

WARM_UP, REPEATS = 3, 15
SPEED_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What a training makes smaller, to be compared with what comes of it.

    Attributes:
        kind: "distillation" or "pruning".
        run: where the larger model comes from.
        large: that model, in eval mode on the CPU; `transform` prepares its inputs.
        teacher: gives logits; None where nobody teaches.
        formats: to save in; empty: the recipe's.
        facts: what else the report says of the larger one.
    """

    kind: str
    run: Run
    large: nn.Module
    transform: Transform
    teacher: Teacher | None = None
    formats: Sequence[str] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def report(
        self, recipe: Recipe, splits: Splits, transform: Transform, small: nn.Module, artifact: Path
    ) -> dict[str, Any]:
        """Both on the same test split, at the same time: figures, bytes, milliseconds a batch.

        `transform`: the smaller one's.
        """
        ((given, _),) = fetch(splits.test, (0,))
        both = [(self.large, self.transform), (small, transform)]
        times = in_turn([(module, prepare(given)) for module, prepare in both])
        before, after = (
            {
                **measure(module, recipe, splits.test, prepare, splits.labels),
                **size(module),
                f"ms_per_batch_of_{SPEED_BATCH}": round(milliseconds, 3),
            }
            for (module, prepare), milliseconds in zip(both, times, strict=True)
        )
        return {
            "kind": self.kind,
            "before": {"run": str(self.run.folder), **before, **self.facts},
            "after": {**after, "file": artifact.name},
        }


def size(module: nn.Module) -> dict[str, int]:
    """Parameters, and the bytes of all weights."""
    tensors = [*module.parameters(), *module.buffers()]
    return {
        "parameters": sum(tensor.numel() for tensor in module.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }


@torch.inference_mode()
def in_turn(models: Sequence[tuple[nn.Module, Tensor]]) -> list[float]:
    """The median milliseconds of each one's forward of 16 inputs.

    They are timed in turn, after a warm-up: what else the machine does meets all of them.

    Args:
        models: each with one input that it takes.
    """
    batches = [one.expand(SPEED_BATCH, *one.shape).contiguous() for _, one in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(WARM_UP + REPEATS):
        for (module, _), batch, taken in zip(models, batches, times, strict=True):
            start = time.perf_counter()
            module(batch)
            taken.append(time.perf_counter() - start)
    return [median(taken[WARM_UP:]) * 1000 for taken in times]
