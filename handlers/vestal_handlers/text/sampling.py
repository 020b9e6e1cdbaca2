"""Draws the next token of one row from its logits: temperature, then top-k, then top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

# Dividing by less than this leaves one token anyway (vLLM draws the same line).
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Sampling:
    """How one request wants its tokens drawn.

    Attributes:
        temperature: the logits are divided by it; 1 leaves them as they are.
        top_k: only the k most probable tokens, and those as probable as the k-th; 0: all.
        top_p: only the most probable tokens that together reach this probability; 1: all.
        seed: of the row's own generator.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int


class Sampler:
    """One row's generator: the same seed draws the same tokens whatever else is in the batch.

    The generator lives on the CPU and draws once a token over the whole vocabulary in its order,
    so that neither the device nor the order of nearly equal logits changes what a draw means.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        """Logits [V], finite, of any float type and device, become a token id."""
        probabilities = distribution(logits.float().cpu(), self._sampling)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities, fp32 [V], that a token is drawn by; 0 for what is filtered out."""
    # The best logit becomes 0, so no temperature makes infinities of the others' differences.
    scores = ((logits - logits.max()) / sampling.temperature)[None]
    # Transformers' own filters do not look at the tokens before: none are given.
    before = torch.empty(1, 0, dtype=torch.long)
    if 0 < sampling.top_k < logits.shape[-1]:
        scores = TopKLogitsWarper(sampling.top_k)(before, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(before, scores)
    return torch.softmax(scores[0], dim=-1)
