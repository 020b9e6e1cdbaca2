"""A new version is rejected only on evidence, and a slow or failing one is."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestal.fleet.desired import SwapPolicy
from vestal.fleet.settling import SIGNIFICANCE, Verdict, binomial_tail, judge, rank_test
from vestal.fleet.traffic import Counters, Interval, Window

POLICY = SwapPolicy(settle_seconds=30, max_error_rate=0.01, max_latency_ratio=2.0)


def stream(
    rng: random.Random,
    rate: float,
    *,
    seconds: int = 30,
    mean: float = 0.01,
    spread: float = 0.2,
    fixed: float = 1.0,
    failing: float = 0.0,
) -> Window:
    """Simulate a scrape per second.

    Args:
        rate: requests per second; those of the same 0.1 s are a batch.
        mean: time of a batch of one, in seconds; its logarithm has the standard deviation `spread`.
        fixed: the part of `mean` that does not depend on the size of the batch.
        failing: probability with which a request fails.
    """
    intervals = []
    for _ in range(seconds):
        counted = Counters()
        sizes = [int(rate / 10 * 2 * rng.random() + rng.random()) for _ in range(10)]
        for size in filter(None, sizes):
            time = mean * (fixed + (1 - fixed) * size) * rng.lognormvariate(0, spread)
            counted.arrivals += size
            counted.requests += size
            counted.batches += 1
            counted.handler += time
            if failing:
                counted.failures += sum(rng.random() < failing for _ in range(size))
        intervals.append(Interval(1.0, counted))
    return Window(tuple(intervals))


def watch(new: Window, old: Window | None, policy: SwapPolicy = POLICY) -> Verdict:
    """Judge after every second, as the keeper does, until there is a decision."""
    for second in range(1, len(new.intervals) + 1):
        verdict = judge(Window(new.intervals[:second]), old, policy, second)
        if verdict.decision != "continue":
            return verdict
    raise AssertionError("no decision at the end of the settling time")


def rejected(make: Callable[[random.Random], tuple[Window, Window | None]], runs: int) -> float:
    verdicts = [watch(*make(random.Random(seed))) for seed in range(runs)]
    return sum(verdict.decision == "worse" for verdict in verdicts) / runs


@pytest.mark.parametrize("rate", [0.5, 20])
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_an_equal_version_is_accepted_in_more_than_99_percent_of_the_swaps(rate, spread):
    def make(rng):
        before = stream(rng, rate, seconds=60, spread=spread)
        return stream(rng, rate, spread=spread), before

    assert rejected(make, 200) < 0.01


@pytest.mark.parametrize(("before", "after"), [(2, 60), (60, 2)])
@pytest.mark.parametrize("fixed", [0.0, 0.5, 1.0])
def test_an_equal_version_is_accepted_when_the_traffic_and_the_batches_change(before, after, fixed):
    def make(rng):
        return stream(rng, after, fixed=fixed), stream(rng, before, seconds=60, fixed=fixed)

    assert rejected(make, 100) < 0.01


@pytest.mark.parametrize("rate", [2, 20])
@pytest.mark.parametrize("fixed", [0.0, 1.0])
def test_a_version_three_times_slower_is_rejected(rate, fixed):
    def make(rng):
        old = stream(rng, rate, seconds=60, fixed=fixed)
        return stream(rng, rate, mean=0.03, fixed=fixed), old

    assert rejected(make, 100) > 0.99


def test_the_reason_has_the_numbers():
    rng = random.Random(0)
    verdict = watch(stream(rng, 20, mean=0.03), stream(rng, 20, seconds=60))
    times = r"(2\.9|3\.\d) times as long \(\S+ ms instead of \S+ ms\)"
    assert re.fullmatch(rf"its handler takes {times}; allowed: 2 times", verdict.reason)


def test_one_slow_request_does_not_reject_a_version():
    rng = random.Random(0)
    old, new = stream(rng, 2, seconds=60), stream(rng, 2)
    slow = Counters(arrivals=1, requests=1, batches=1, handler=60.0)
    new = Window((Interval(1.0, slow), *new.intervals[1:]))
    assert watch(new, old).decision == "accept"


def test_a_version_without_traffic_is_accepted_at_the_end():
    quiet = Window(tuple(Interval(1.0, Counters()) for _ in range(30)))
    assert judge(quiet, quiet, POLICY, 29).decision == "continue"
    assert judge(quiet, quiet, POLICY, 30) == Verdict("accept", "no requests in 30 s")
    assert judge(Window(), None, POLICY, 30).decision == "accept"


def test_two_percent_of_errors_are_rejected_where_one_percent_is_allowed():
    def make(rng):
        return stream(rng, 200, failing=0.02), stream(rng, 200, seconds=60)

    assert rejected(make, 50) > 0.95


def test_a_version_with_less_errors_than_allowed_is_accepted():
    def make(rng):
        return stream(rng, 200, failing=0.005), stream(rng, 200, seconds=60)

    assert rejected(make, 50) < 0.02


def test_a_version_that_fails_as_often_as_the_old_one_is_accepted():
    def make(rng):
        return stream(rng, 50, failing=0.1), stream(rng, 50, seconds=60, failing=0.1)

    assert rejected(make, 50) < 0.02


def failing(failures: int, requests: int) -> Window:
    return Window((Interval(1.0, Counters(arrivals=requests, failures=failures)),))


def test_a_version_whose_first_two_requests_fail_is_rejected_at_once():
    assert judge(failing(1, 1), None, POLICY, 1).decision == "continue"
    verdict = judge(failing(2, 2), None, POLICY, 1)
    assert verdict == Verdict("worse", "2 of 2 requests failed (100.0%); allowed: 1.0%")


def test_one_failure_is_enough_if_none_is_allowed():
    strict = POLICY.model_copy(update={"max_error_rate": 0.0})
    assert judge(failing(1, 1000), None, strict, 1).decision == "worse"


def test_more_failures_than_arrivals_are_all_failures():
    """A request that arrived before the switch can fail after it."""
    assert "3 of 3" in judge(failing(3, 1), None, POLICY, 1).reason


@given(st.integers(0, 60), st.integers(0, 60), st.floats(0, 1))
def test_the_binomial_tail_is_the_sum_of_its_terms(successes, failures, probability):
    trials = successes + failures
    terms = (
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(successes, trials + 1)
    )
    exact = math.fsum(terms)
    tail = binomial_tail(successes, trials, probability)
    if tail < 1:
        # Terms of the sum underflow below about 1e-270.
        assert tail == pytest.approx(exact, rel=1e-6, abs=1e-250)
    else:
        assert exact > 0.3  # far from significant


def test_the_rank_test_agrees_with_scipy():
    mannwhitneyu = pytest.importorskip("scipy.stats").mannwhitneyu
    rng = random.Random(0)
    for size in (8, 20, 60):
        values = [rng.gauss(0.5, 1) for _ in range(size)]
        others = [round(rng.gauss(0, 1), 1) for _ in range(30)]  # with ties
        others[:3] = values[:3]
        expected = mannwhitneyu(values, others, alternative="greater", method="asymptotic").pvalue
        assert rank_test(values, others) == pytest.approx(expected, rel=1e-9)


def test_the_rank_test_of_equal_values_is_not_significant():
    assert rank_test([1.0] * 10, [1.0] * 10) > SIGNIFICANCE
