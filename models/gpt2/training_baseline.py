"""A baseline for language models: an interpolated bigram model of the same tokens."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


def perplexity(
    train: Sequence[Sequence[int]], test: Sequence[Sequence[int]], vocabulary: int
) -> float:
    """The perplexity of `test`, without the first token of each text.

    p(b|a) = x * c(ab) / c(a) + (1 - x) * ((1 - y) * c(b) / n + y / vocabulary), Jelinek-Mercer
    interpolation; x and y are chosen on `test` itself, which favors the baseline.
    """
    singles = Counter(token for text in train for token in text)
    pairs = Counter(pair for text in train for pair in pairwise(text))
    total = sum(singles.values())
    terms = [
        (pairs[first, second] / max(singles[first], 1), singles[second] / total)
        for text in test
        for first, second in pairwise(text)
    ]

    def of(x: float, y: float) -> float:
        logs = (
            math.log(x * bigram + (1 - x) * ((1 - y) * unigram + y / vocabulary))
            for bigram, unigram in terms
        )
        return math.exp(-math.fsum(logs) / len(terms))

    return min(of(x / 20, y) for x in range(1, 20) for y in (0.001, 0.01, 0.05))
