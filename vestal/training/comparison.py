"""Compare a large model and a small one by the same figures, measured at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor, nn

from vestal.recipes.recipe import Recipe, Splits, Transform
from vestal.training.loop import measure

WARM_UP, REPEATS = 3, 15
SPEED_BATCH = 16


def compare(
    recipe: Recipe,
    splits: Splits,
    large: tuple[nn.Module, Transform],
    small: tuple[nn.Module, Transform],
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics on the test split, parameters, bytes and milliseconds per batch of both models.

    Args:
        large, small: a module in eval mode on the CPU, and the transform of its inputs.
    """
    value = splits.test[0][0]
    times = interleaved_times([(module, prepare(value)) for module, prepare in (large, small)])
    before, after = (
        {
            **measure(module, recipe, splits.test, prepare, splits.labels),
            **size(module),
            f"ms_per_batch_of_{SPEED_BATCH}": round(milliseconds, 3),
        }
        for (module, prepare), milliseconds in zip((large, small), times, strict=True)
    )
    return before, after


def size(module: nn.Module) -> dict[str, int]:
    """The number of parameters, and the bytes of all parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return {
        "parameters": sum(tensor.numel() for tensor in module.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }


@torch.inference_mode()
def interleaved_times(models: Sequence[tuple[nn.Module, Tensor]]) -> list[float]:
    """The median time of a forward pass of 16 inputs for each model, in milliseconds.

    After a warm-up the models take turns, so that other load on the machine affects all of them.

    Args:
        models: each with one prepared input.
    """
    batches = [value.expand(SPEED_BATCH, *value.shape).contiguous() for _, value in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(WARM_UP + REPEATS):
        for (module, _), batch, durations in zip(models, batches, times, strict=True):
            start = time.perf_counter()
            module(batch)
            durations.append(time.perf_counter() - start)
    return [median(durations[WARM_UP:]) * 1000 for durations in times]
