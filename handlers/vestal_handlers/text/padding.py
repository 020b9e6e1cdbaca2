"""Texts of different lengths in one batch: which ones, and the padding of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

Row = Mapping[str, Tensor]
Forward = Callable[[Sequence[Row]], Sequence[Mapping[str, Tensor]]]

ENCODERS = frozenset(
    ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
)
"""Types of models whose attention mask excludes padding entirely; `is_exact` verifies a model."""
PASS_COST = 64
"""Tokens that take as long as the start of a forward pass (benchmarks/mixed_lengths.py)."""
_TOLERANCE = 1e-5
_TESTED = (3, 11, 24)  # lengths


def batches(lengths: Sequence[int], most_rows: int) -> list[list[int]]:
    """Return the places of the texts of each forward pass, the longest texts first.

    A pass ends where one more text would make its padding cost more than another pass.
    """
    found: list[list[int]] = []
    longest = padding = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        padding += longest - lengths[place]
        if not found or len(found[-1]) == most_rows or padding > PASS_COST:
            found.append([])
            longest, padding = lengths[place], 0
        found[-1].append(place)
    return found


def padded(rows: Sequence[Row], pad_token: int) -> list[Row]:
    """Pad the inputs [T] of each text to the longest one, on the right."""
    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": pad_token}
    return [
        {
            name: pad(tensor, (0, longest - len(tensor)), value=fill.get(name, 0))
            for name, tensor in row.items()
        }
        for row in rows
    ]


def trimmed(output: Mapping[str, Tensor], count: int, names: Collection[str]) -> dict[str, Tensor]:
    """Remove the padding from the outputs that have one item for each token."""
    return {name: each[:count] if name in names else each for name, each in output.items()}


def example_rows(inputs: Collection[str], tokens: int, limit: int) -> list[Row]:
    """Random texts of different lengths.

    Args:
        inputs: the names of the model's inputs.
        tokens: the size of the vocabulary.
        limit: tokens that the model can process.
    """
    chance = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    for length in (min(each, limit) for each in _TESTED):
        row: dict[str, Tensor] = {name: torch.zeros(length, dtype=torch.int64) for name in inputs}
        row["input_ids"] = torch.randint(tokens, (length,), generator=chance)
        row["attention_mask"] = torch.ones(length, dtype=torch.int64)
        rows.append(row)
    return rows


def is_exact(forward: Forward, rows: Sequence[Row], pad_token: int, names: Collection[str]) -> bool:
    """Whether padded texts have the outputs that they have alone, to within 1e-5.

    Args:
        forward: computes the outputs of texts of one length.
        rows: texts of different lengths.
        names: outputs with one item for each token.
    """
    alone = [forward([row])[0] for row in rows]
    together = forward(padded(rows, pad_token))
    pairs = [
        (output[name], trimmed(other, len(row["input_ids"]), names)[name])
        for output, other, row in zip(alone, together, rows, strict=True)
        for name in output
    ]
    # Rounding errors of large outputs are larger.
    return all(
        one.shape == other.shape
        and float((one - other).abs().max()) <= _TOLERANCE * max(1.0, float(one.abs().max()))
        for one, other in pairs
    )
