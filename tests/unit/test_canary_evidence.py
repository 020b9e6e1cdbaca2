"""The sequential test of a failure rate: how rarely it is wrong, and how soon it is right."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.fleet.canary.evidence import (
    HIGHER,
    LOWER,
    is_above,
    is_below,
    requests_needed,
    stake,
)

bounds = st.floats(0.0005, 0.4)


def expected_stake(requests: int, rate: float, bound: float, shares: dict[float, float]) -> float:
    """The mean of the stake over all outcomes of a number of requests that fail with this rate."""
    return sum(
        math.comb(requests, failures)
        * rate**failures
        * (1 - rate) ** (requests - failures)
        * math.exp(stake(failures, requests, bound, shares))
        for failures in range(requests + 1)
    )


@pytest.mark.parametrize("shares", [HIGHER, LOWER])
@given(requests=st.integers(0, 120), bound=bounds)
def test_the_stake_stays_at_1_on_average_when_the_rate_is_the_bound(shares, requests, bound):
    assert expected_stake(requests, bound, bound, shares) == pytest.approx(1, rel=1e-9)


@given(requests=st.integers(1, 120), bound=bounds, factor=st.floats(0, 1))
def test_the_stake_does_not_grow_when_the_hypothesis_is_true(requests, bound, factor):
    kept, broken = bound * factor, 1 - (1 - bound) * factor
    assert expected_stake(requests, kept, bound, HIGHER) <= 1 + 1e-9
    assert expected_stake(requests, broken, bound, LOWER) <= 1 + 1e-9


@given(bounds)
def test_without_a_failure_the_rule_of_three_is_enough_with_a_margin_of_a_fifth(bound):
    needed = requests_needed(0, bound, 0.05)
    assert 0.99 * 3 * (1 - bound) / bound <= needed <= 3.6 / bound + 1


@given(bound=bounds, failures=st.integers(0, 200), risk=st.floats(0.0001, 0.2))
def test_the_number_of_requests_that_is_needed_is_the_smallest_one(bound, failures, risk):
    needed = requests_needed(failures, bound, risk)
    assert is_below(failures, needed, bound, risk)
    assert not is_below(failures, needed - 1, bound, risk)
    assert not is_above(failures, needed, bound, 0.001)


@given(bound=bounds, failures=st.integers(0, 50), requests=st.integers(0, 5000))
def test_no_number_of_requests_proves_both_and_few_prove_nothing(bound, failures, requests):
    requests = max(requests, failures)
    below, above = (
        is_below(failures, requests, bound, 0.05),
        is_above(failures, requests, bound, 0.001),
    )
    assert not (below and above)
    if below:
        assert requests >= math.log(20) / -math.log1p(-bound)
        assert failures < requests * bound
    if above:
        assert failures >= 2
        assert failures > requests * bound


def share_of_runs(
    rate: float, decides: Callable[[int, int], bool], *, runs: int = 1500, requests: int = 4000
) -> float:
    """Look after every request; return in how many runs there is ever a decision."""
    rng = np.random.default_rng(0)
    decided = 0
    for _ in range(runs):
        failed = np.flatnonzero(rng.random(requests) < rate)
        # The stake against a high rate is highest before a failure, against a low one after it.
        looks = [(k, int(n)) for k, n in enumerate(failed)] + [(len(failed), requests)]
        looks += [(k + 1, int(n) + 1) for k, n in enumerate(failed)]
        decided += any(decides(k, n) for k, n in looks)
    return decided / runs


@pytest.mark.heavy
def test_looking_after_every_request_is_wrong_as_rarely_as_promised():
    bound = 0.01
    assert share_of_runs(bound, lambda k, n: is_below(k, n, bound, 0.05)) <= 0.05
    assert share_of_runs(bound, lambda k, n: is_above(k, n, bound, 0.01)) <= 0.01
    # A test that looks only once would be wrong far more often.
    assert share_of_runs(2 * bound, lambda k, n: is_below(k, n, bound, 0.05)) < 0.002


@pytest.mark.heavy
def test_twice_the_bound_is_proved_to_be_too_high():
    bound = 0.01
    found = share_of_runs(
        2 * bound, lambda k, n: is_above(k, n, bound, 0.001), runs=500, requests=6000
    )
    assert found > 0.95


def test_a_version_that_always_fails_is_found_with_its_second_request():
    assert not is_above(1, 1, 0.005, 0.001)
    assert is_above(2, 2, 0.005, 0.001)
    assert is_above(3, 3, 0.05, 0.001)
