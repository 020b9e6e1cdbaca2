"""Forward a batch; a batch that fails is split in half until the failing instances are alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.engines.tensors import named_tensors
from vestal_handlers.errors import OUT_OF_TIME as OUT_OF_TIME
from vestal_handlers.errors import HandlerError, RequestFailure
from vestal_handlers.requests.request import Instance

Forward = Callable[[Sequence[Any]], Sequence[Any]]
ToFailure = Callable[[Exception, Instance], RequestFailure]


def forward_each(
    group: Sequence[Instance], forward: Forward, to_failure: ToFailure, deadline: float
) -> None:
    """Set the output or the error of every instance.

    A batch that runs out of memory is split as well, because each half may fit.

    Args:
        forward: computes one output per sample; an output may be a RequestFailure.
        to_failure: turns an exception into the error of an instance.
        deadline: time.monotonic() after which no forward pass begins.
    """
    if not group:
        return
    if time.monotonic() > deadline:
        for instance in group:
            instance.error = HandlerError(OUT_OF_TIME)
        return
    try:
        outputs = forward([instance.sample for instance in group])
        if len(outputs) != len(group):
            raise RuntimeError(f"the model returned {len(outputs)} outputs for {len(group)} inputs")
    except Exception as error:
        if len(group) == 1 or is_fatal_cuda_error(error) or time.monotonic() > deadline:
            for instance in group:
                instance.error = to_failure(error, instance)
            return
        middle = len(group) // 2
        forward_each(group[:middle], forward, to_failure, deadline)
        forward_each(group[middle:], forward, to_failure, deadline)
        return
    for instance, output in zip(group, outputs, strict=True):
        failure = output if isinstance(output, RequestFailure) else _not_finite(output)
        if failure:
            instance.error = failure
        else:
            instance.output = output


def _not_finite(output: Any) -> RequestFailure | None:
    if isinstance(output, Tensor):
        # A finite sum has finite terms, and takes half the time; it may overflow, though.
        quickly = output.is_floating_point() and math.isfinite(output.sum())
        is_finite = quickly or bool(torch.isfinite(output).all())
        what = "the model's output"
    else:
        named = named_tensors(output)
        wrong = [name for name, each in named.items() if not torch.isfinite(each).all()]
        is_finite, what = not wrong, f"the model's output {', '.join(map(repr, wrong))}"
    return None if is_finite else HandlerError(f"{what} is not finite (NaN or infinity)")


def is_fatal_cuda_error(error: Exception) -> bool:
    """Whether this process cannot use CUDA any more, for example after a device-side assert."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(
        error, torch.OutOfMemoryError
    )
