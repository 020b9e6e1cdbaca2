"""Sample the next token of a sequence from its logits: temperature, then top-k, then top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

# Below this temperature only one token is left (the same limit as in vLLM).
GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Sampling:
    """The sampling parameters of one request.

    Attributes:
        temperature: the divisor of the logits; 1 leaves them unchanged.
        top_k: only the k most probable tokens, and those as probable as the k-th; 0: all.
        top_p: only the most probable tokens that together reach this probability; 1: all.
        seed: the seed of the sequence's own generator.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int


class Sampler:
    """Samples tokens for one sequence; the result does not depend on the rest of the batch.

    The generator is on the CPU and draws once per token over the whole vocabulary in its order, so
    that neither the device nor the order of nearly equal logits changes the result.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        """Sample a token id from logits [V]: finite, of any float type and device."""
        probabilities = distribution(logits.float().cpu(), self._sampling)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities of the tokens, fp32 [V]; 0 for those that are filtered out."""
    # The best logit becomes 0, so that the result is finite at every temperature.
    scores = ((logits - logits.max()) / sampling.temperature)[None]
    # The filters of transformers do not use the previous tokens.
    before = torch.empty(1, 0, dtype=torch.long)
    if 0 < sampling.top_k < logits.shape[-1]:
        scores = TopKLogitsWarper(sampling.top_k)(before, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(before, scores)
    return torch.softmax(scores[0], dim=-1)
