"""Judge a new default version by its traffic, against the old version's.

Both tests reject only on evidence that chance gives a version as good as required with a
probability of at most `SIGNIFICANCE`, at each look:

- errors: the exact binomial tail (Clopper and Pearson, Biometrika 26, 1934): the probability of so
  many failures or more among so many requests, if each fails with the allowed probability;
- time of the handler: the rank test of Mann and Whitney (Annals of Mathematical Statistics 18,
  1947) between the new version's intervals and the old version's, whose times are multiplied by the
  allowed ratio. It depends on ranks, so one slow request does not matter.

A larger batch takes longer, and a request in it takes a smaller share. So a version is slower only
if it is for the time of a batch and for the time of a request: whatever part of the time depends on
the size of the batch, one of them does not grow if only the sizes differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import Literal

from vestal.fleet.desired import SwapPolicy
from vestal.fleet.traffic import Window

SIGNIFICANCE = 0.001
_MIN_INTERVALS = 8
"""Fewer intervals are too few for the normal approximation of the rank test."""


@dataclass(frozen=True)
class Verdict:
    """`worse`: switch back, for the reason. `continue`: more time or evidence is needed."""

    decision: Literal["continue", "accept", "worse"]
    reason: str


def judge(new: Window, old: Window | None, policy: SwapPolicy, elapsed: float) -> Verdict:
    """Judge the new version.

    Args:
        new: its traffic since the switch.
        old: the old version's traffic before the swap, best before the new version's workers were
            started, which takes CPU time; None if there was no old version.
        elapsed: seconds since the switch.
    """
    for reason in (_errors(new, old, policy), _slowness(new, old, policy)):
        if reason is not None:
            return Verdict("worse", reason)
    requests = new.arrivals
    if elapsed < policy.settle_seconds:
        return Verdict("continue", f"{requests:.0f} requests in {elapsed:.0f} s")
    if not requests:
        return Verdict("accept", f"no requests in {elapsed:.0f} s")
    return Verdict("accept", f"{requests:.0f} requests, {new.failures:.0f} of them failed")


def _errors(new: Window, old: Window | None, policy: SwapPolicy) -> str | None:
    failures = round(new.failures)
    requests = max(round(new.arrivals), failures)
    allowed = policy.max_error_rate
    if failures and old is not None and old.arrivals:
        # Not worse than the old version, whose clients may be the cause.
        allowed = min(1.0, max(allowed, old.failures / old.arrivals))
    if not failures or binomial_tail(failures, requests, allowed) > SIGNIFICANCE:
        return None
    return (
        f"{failures} of {requests} requests failed ({failures / requests:.1%}); "
        f"allowed: {allowed:.1%}"
    )


def _slowness(new: Window, old: Window | None, policy: SwapPolicy) -> str | None:
    if old is None:
        return None
    ratios = []
    for per in ("batches", "requests"):
        times, before = _times(new, per), _times(old, per)
        if min(len(times), len(before)) < _MIN_INTERVALS:
            return None
        allowed = [time * policy.max_latency_ratio for time in before]
        if rank_test(times, allowed) > SIGNIFICANCE:
            return None
        ratios.append((median(times) / median(before), median(times), median(before)))
    ratio, time, time_before = min(ratios)
    return (
        f"its handler takes {ratio:.1f} times as long ({time * 1000:.3g} ms instead of "
        f"{time_before * 1000:.3g} ms); allowed: {policy.max_latency_ratio:g} times"
    )


def _times(window: Window, per: str) -> list[float]:
    """Return the handler's mean time per batch, or per request, of each interval."""
    return [
        interval.counted.handler / count
        for interval in window.intervals
        if (count := getattr(interval.counted, per)) > 0
    ]


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Return P(X >= successes) for X ~ Binomial(trials, probability)."""
    if successes <= 0 or probability >= 1:
        return 1.0
    if probability <= 0:
        return 0.0
    if successes <= trials * probability:
        return 1.0  # at least about a half: never significant
    logarithm = (
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(probability)
        + (trials - successes) * math.log1p(-probability)
    )
    term = total = math.exp(logarithm)
    for count in range(successes, trials):
        term *= (trials - count) / (count + 1) * probability / (1 - probability)
        total += term
        if term < total * 1e-12:
            break
    return min(total, 1.0)


def rank_test(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the one-sided p-value of `values` being larger than `others` (Mann-Whitney U).

    Normal approximation with continuity correction; ties get mean ranks.
    """
    joined = sorted([(value, True) for value in values] + [(other, False) for other in others])
    n, m, size = len(values), len(others), len(joined)
    rank_sum = ties = 0.0
    start = 0
    while start < size:
        end = start
        while end < size and joined[end][0] == joined[start][0]:
            end += 1
        tied = end - start
        rank_sum += (start + end + 1) / 2 * sum(ours for _, ours in joined[start:end])
        ties += tied**3 - tied
        start = end
    u = rank_sum - n * (n + 1) / 2
    variance = n * m / 12 * ((size + 1) - ties / (size * (size - 1)))
    if variance <= 0:  # all are equal
        return 1.0
    return 1 - NormalDist().cdf((u - n * m / 2 - 0.5) / math.sqrt(variance))
