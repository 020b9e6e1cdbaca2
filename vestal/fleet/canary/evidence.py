"""A sequential test of a failure rate: valid however often, and whenever, one looks at it.

Bet on each request against the hypothesis that it fails with the probability `bound`: a failure
multiplies the stake by f / (1 + (f - 1) bound), a success by 1 / (1 + (f - 1) bound). This is the
likelihood ratio of Wald (Annals of Mathematical Statistics 16, 1945) for failure odds that are f
times as high. If the rate is really at most `bound` (for f > 1), or at least `bound` (for f < 1),
the stake does not grow on average, and it exceeds 1/p at any time with a probability of at most p
(Ville, 1939). The mean over several f is such a stake, too.

With f = 0 and no failure, the stake is (1 - bound) ** -n: 20 times as high after 3 / bound
requests, the rule of three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

HIGHER: Mapping[float, float] = {1.5: 0.2, 2.0: 0.2, 4.0: 0.2, 16.0: 0.2, 128.0: 0.2}
"""Shares of the stake by factor f, against the hypothesis that a rate is at most the bound."""
LOWER: Mapping[float, float] = {0.0: 1 / 2, 0.25: 1 / 6, 0.5: 1 / 6, 0.75: 1 / 6}
"""The same, against the hypothesis that a rate is at least the bound."""


def stake(failures: int, requests: int, bound: float, shares: Mapping[float, float]) -> float:
    """Return the logarithm of the stake after a number of requests; it begins at 0."""
    parts = [
        math.log(share)
        + (failures * math.log(factor) if factor else -math.inf if failures else 0.0)
        - requests * math.log1p((factor - 1) * bound)
        for factor, share in shares.items()
    ]
    most = max(parts)
    return most + math.log(sum(math.exp(part - most) for part in parts))


def is_above(failures: int, requests: int, bound: float, risk: float) -> bool:
    """Whether the failure rate is certainly above the bound.

    Args:
        risk: probability of ever being wrong.
    """
    return stake(failures, requests, bound, HIGHER) >= -math.log(risk)


def is_below(failures: int, requests: int, bound: float, risk: float) -> bool:
    """Whether the failure rate is certainly below the bound; `risk` as for `is_above`."""
    return stake(failures, requests, bound, LOWER) >= -math.log(risk)


def requests_needed(failures: int, bound: float, risk: float) -> int:
    """Return the number of requests, of which some failed, that makes `is_below` true."""
    high = 1
    while not is_below(failures, high, bound, risk):
        high *= 2
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_below(failures, middle, bound, risk) else (middle, high)
    return high
