"""Apply a transform to small images without torchvision's overhead.

For a few hundred pixels, the calls of torchvision's steps take ten times as long as the arithmetic.
The last steps, which change every value by itself, are replaced by a table of what these same steps
make of all 256 values, so the result is equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms import v2

from vestal_handlers.images.decoding import ImageTransform

Step = Callable[[Tensor], Tensor]
_POINTWISE = (v2.ToDtype, v2.Normalize)
_MOST_VALUES = 1 << 16  # with more, the table saves little


class SmallImageTransform:
    """Returns what `transform(image)` returns, for images of any size."""

    def __init__(self, transform: ImageTransform) -> None:
        # The steps of a subclass may not be all that it does.
        steps = list(transform.steps) if type(transform) is ImageTransform else [transform]
        first = len(steps)
        while first and type(steps[first - 1]) in _POINTWISE:
            first -= 1
        self._before, self._pointwise = steps[:first], steps[first:]
        self._table = _table(self._pointwise, 1 if transform.mode == "L" else 3)

    def __call__(self, image: Tensor) -> Tensor:
        """Transform a decoded image, uint8 [C, H, W]."""
        image = _apply([step for step in self._before if not _keeps(step, image)], image)
        table = self._table
        if table is None or image.numel() > _MOST_VALUES or not _fits(image, len(table)):
            return _apply(self._pointwise, image)
        pixels = image.numpy()
        values = np.empty(pixels.shape, table.dtype)
        for channel, row in enumerate(table):
            np.take(row, pixels[channel], out=values[channel], mode="clip")
        return torch.from_numpy(values)


def _apply(steps: Sequence[Step], image: Tensor) -> Tensor:
    for step in steps:
        image = step(image)
    return image


def _table(steps: Sequence[Step], channels: int) -> npt.NDArray[Any] | None:
    """The results [C, 256] of the steps for all values; None if they do not keep the channels."""
    if not steps:
        return None
    values = torch.arange(256, dtype=torch.uint8).repeat(channels, 1, 1)
    try:
        table: npt.NDArray[Any] = _apply(steps, values).numpy()
    except Exception:  # of a step for other channels, or a type that NumPy lacks
        return None
    return table[:, 0] if table.shape == tuple(values.shape) else None


def _keeps(step: Any, image: Tensor) -> bool:
    """Whether the step would resize an image to its own size."""
    if type(step) is not v2.Resize or not step.size or step.max_size is not None:
        return False
    sides = step.size * 2 if len(step.size) == 1 else step.size
    return bool(list(image.shape[-2:]) == sides)


def _fits(image: Tensor, channels: int) -> bool:
    return image.dtype == torch.uint8 and image.dim() == 3 and len(image) == channels
