"""Examples become batches: in an order by the epoch, augmented, transformed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from vestal.recipes.recipe import Examples, Recipe

Transform = Callable[[Any], Tensor]


class Shuffled(Sampler[int]):
    """An order of its own for every epoch, and a fresh start of all randomness.

    Order, dropout and augmentation of an epoch depend on its number alone, so a training that was
    killed and resumed ends where it would have ended.
    """

    def __init__(self, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.size, self.seed, self.epoch = size, seed, epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        torch.manual_seed(self.seed * 1_000_003 + self.epoch())
        yield from torch.randperm(self.size).tolist()


def loader(
    recipe: Recipe,
    examples: Examples,
    *transforms: Transform,
    augment: Callable[[Any], Any] | None = None,
    sampler: Sampler[int] | None = None,
) -> DataLoader[Any]:
    """Batches (inputs by the first transform, targets, inputs by each further transform)."""

    def collate(batch: Sequence[tuple[Any, Any]]) -> list[Any]:
        inputs = [augment(given) if augment else given for given, _ in batch]
        targets = default_collate([target for _, target in batch])
        if targets.is_floating_point():
            targets = targets.float()
        first, *rest = (_prepare(inputs, transform) for transform in transforms)
        return [first, targets, *rest]

    # No worker processes: what is decoded stands in memory, and files are decoded by threads
    # (`ImageFiles`). So all chance is this process's, and a resumed training is exact.
    return DataLoader(
        examples,  # type: ignore[arg-type]  # map-style: __len__ and __getitem__ are enough
        batch_size=recipe.batch_size,
        sampler=sampler,
        collate_fn=collate,
    )


def fetch(examples: Examples, indices: Sequence[int]) -> list[tuple[Any, Any]]:
    """Examples as the loader fetches them: at once, where they can be."""
    at_once: Callable[[Sequence[int]], list[tuple[Any, Any]]] | None
    at_once = getattr(examples, "__getitems__", None)
    return at_once(indices) if at_once else [examples[index] for index in indices]


def _prepare(inputs: Sequence[Any], transform: Transform) -> Tensor:
    image = isinstance(inputs[0], Tensor) and inputs[0].dim() == 3
    if image and len({one.shape for one in inputs}) == 1:
        return transform(torch.stack(list(inputs)))
    return torch.stack([transform(one) for one in inputs])
