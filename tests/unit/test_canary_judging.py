"""When a canary goes on, and when it is sent back: by simulation, with fixed seeds."""

from __future__ import annotations

import re

import pytest
from canary_traffic import Version, new_run, play
from hypothesis import given
from hypothesis import strategies as st

from vestal.fleet.canary.counts import Counts, Times
from vestal.fleet.canary.judging import MIN_DEFAULT_TIMES, Observation, Rules, Verdict, Watch, judge
from vestal.fleet.canary.states import judged

RULES = Rules(steps=(10, 50, 100), every=10)
RATE = 1000  # so that the first step gets 2000 requests in two intervals
RUNS = pytest.mark.parametrize("runs", [25, pytest.param(100, marks=pytest.mark.slow)])

GOOD = {
    "equal": (Version(), Version()),
    "with long tails": (Version(spread=1.0), Version(spread=1.0)),
    "that fails as rarely": (Version(failing=0.001), Version(failing=0.001)),
    "that stalls as rarely": (Version(stalling=0.02), Version(stalling=0.02)),
    "that is 10 % slower": (Version(median=22, spread=0.1), Version(spread=0.1)),
    "of a millisecond": (Version(median=1.1), Version(median=1.0)),
}


@pytest.mark.heavy
@RUNS
@pytest.mark.parametrize("name", GOOD)
def test_a_good_canary_reaches_100_percent_in_more_than_99_percent_of_the_runs(name, runs):
    ends = [play(seed, *GOOD[name], RULES, rate=RATE) for seed in range(runs)]
    assert [end.run.log[-1].text for end in ends if end.run.state != "promoting"] == []
    assert min(end.seconds for end in ends) >= 30


BAD = {
    "fails in 2 %": (
        Version(failing=0.02),
        r"\d+ of [\d,]+ requests failed \([1-9]\.\d+%\); allowed: 0\.5%",
    ),
    "is twice as slow": (Version(median=40), r"its p99 is \d+ ms, [12]\.\d times that of"),
    "stalls in 5 %": (Version(stalling=0.05), r"its p99 is \d+ ms, \d+\.\d times that of"),
    "always fails": (Version(failing=1.0), r"\d+ of [\d,]+ requests failed \(100\.00%\)"),
}


@pytest.mark.heavy
@RUNS
@pytest.mark.parametrize("name", BAD)
def test_a_bad_canary_is_sent_back_within_two_intervals_with_the_reason(name, runs):
    canary, reason = BAD[name]
    ends = [play(seed, canary, Version(), RULES, rate=RATE, most=20) for seed in range(runs)]
    back = [end for end in ends if end.run.state == "reverted" and end.run.step == 0]
    assert len(back) / len(ends) > 0.95
    for end in back:
        assert end.run.reason is not None
        assert re.search(reason, end.run.reason), end.run.reason


@pytest.mark.heavy
@RUNS
def test_twice_the_allowed_error_rate_is_sent_back_within_two_intervals_of_enough_requests(runs):
    # 1 % instead of 0.5 % cannot be told with certainty from fewer than several thousand.
    bad, rate = Version(failing=0.01), 6000
    ends = [play(seed, bad, Version(), RULES, rate=rate, most=20) for seed in range(runs)]
    assert sum(end.run.state == "reverted" for end in ends) > 0.95 * runs
    assert not any(end.run.step for end in ends)


@pytest.mark.heavy
@pytest.mark.parametrize("runs", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_twice_the_allowed_error_rate_hardly_ever_goes_on_with_few_requests(runs):
    bad = Version(failing=0.01)
    ends = [play(seed, bad, Version(), RULES, rate=50, most=200) for seed in range(runs)]
    assert sum(end.run.step > 0 for end in ends) <= 1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 400),
            st.integers(0, 3),
            st.integers(0, 400),
            st.sampled_from([5.0, 20.0, 30.0]),
            st.floats(0.5, 8),
        ),
        max_size=30,
    ),
    st.floats(0.002, 0.2),
    st.sampled_from([1.2, 2.0, None]),
)
def test_it_never_goes_on_without_time_and_evidence(seconds, max_error_rate, ratio):
    rules = Rules(steps=(10, 100), every=10, max_error_rate=max_error_rate, max_p99_ratio=ratio)
    run, watch = new_run(rules), Watch(rules.every)
    for own, failures, others, taken, passed in seconds:
        canary = Counts(requests=own, failures=min(own, failures), times=Times(bins={taken: own}))
        default = Counts(requests=others, times=Times(bins={20.0: others}))
        watch.add(Observation(passed, canary, default))
        after = judged(run, judge(watch, rules, 10, None), watch.step.default.times, 0.0)
        if after.step == 0:
            if after.ended:
                assert after.reason
                return
            continue
        step = watch.step
        assert step.seconds >= rules.every
        assert step.canary.requests >= 2.99 * (1 - max_error_rate) / max_error_rate
        assert step.canary.failures < max_error_rate * step.canary.requests
        if ratio is not None:
            assert step.default.times.count >= MIN_DEFAULT_TIMES
            assert step.canary.times.count >= 295
            assert step.canary.times.above(20 * ratio + 2) < 0.01 * step.canary.times.count
        return


def watched(canary: Counts, default: Counts, *, seconds=20.0, weight=10.0, slowest=None, **more):
    watch = Watch(RULES.every)
    watch.add(Observation(seconds, canary, default, **more))
    return judge(watch, RULES, weight, slowest)


def took(milliseconds: float, requests: int = 2000) -> Counts:
    return Counts(requests=requests, times=Times(bins={milliseconds: requests}))


def test_without_requests_it_waits_and_says_for_how_many():
    verdict = watched(Counts(), Counts())
    assert verdict.decision == "wait"
    assert verdict.reason == (
        "0 of 697 requests for an error rate below 0.5% (none failed); 0 of 459 requests for the "
        "default version's p99"
    )


def test_a_failure_needs_more_requests():
    one = Counts(requests=900, failures=1, times=Times(bins={20: 900}))
    assert "900 of 1,566 requests" in watched(one, took(20)).reason
    assert "(1 failed)" in watched(one, took(20)).reason


def test_with_less_than_half_of_the_requests_a_lone_request_may_wait_for_its_batch():
    assert watched(took(60), took(20)).decision == "worse"
    assert watched(took(60), took(20), delay=50.0).decision == "good"
    assert watched(took(60), took(20), delay=50.0, weight=50).decision == "worse"


def test_with_more_than_half_it_is_compared_with_the_times_of_an_earlier_step():
    slowest = took(40).times
    assert watched(took(45), took(20), weight=100, slowest=slowest).decision == "good"
    assert watched(took(45), took(20), weight=50, slowest=slowest).decision == "worse"
    assert watched(took(45), Counts(), weight=100, slowest=slowest).decision == "good"


def test_the_longest_times_of_the_default_version_are_kept():
    good, few = Verdict("good", "2,000 requests"), took(30, 100).times

    def kept(before: Times | None, seen: Times) -> Times | None:
        return judged(new_run(RULES, slowest_times=before), good, seen, 0.0).slowest_times

    assert kept(None, few) == few
    assert kept(took(20).times, few) == took(20).times
    assert kept(took(20).times, took(30).times) == took(30).times
    assert kept(took(40).times, took(30).times) == took(40).times
    assert kept(Times(), took(30).times) == took(30).times


def test_a_difference_below_a_millisecond_is_not_seen():
    assert watched(took(2), took(1)).decision == "good"
    assert watched(took(3), took(1)).decision == "worse"


def test_a_long_good_time_does_not_hide_a_change():
    watch = Watch(RULES.every)
    for _ in range(600):
        watch.add(Observation(10.0, took(20), took(20)))
    assert judge(watch, RULES, 50, None).decision == "good"
    bad = Counts(requests=2000, failures=60, times=Times(bins={20: 2000}))
    watch.add(Observation(10.0, bad, took(20)))
    verdict = judge(watch, RULES, 50, None)
    assert verdict.decision == "worse"
    assert verdict.reason.startswith("60 of 2,000 requests failed (3.00%); allowed: 0.5%")


def test_a_canary_without_workers_for_half_an_interval_is_sent_back():
    assert watched(took(20), took(20), seconds=5, unready=True).decision == "wait"
    verdict = watched(took(20), took(20), seconds=6, unready=True)
    assert verdict == type(verdict)("worse", "none of its workers was READY for 6 of 6 s")


def test_the_reason_names_workers_that_have_crashed():
    died = Counts(requests=4, failures=4)
    reason = watched(died, took(20), seconds=1, unready=True).reason
    assert reason.startswith("4 of 4 requests failed (100.00%); allowed: 0.5%. Of the default ")
    assert reason.endswith("0 of 2,000 failed. None of its workers is READY now")


def test_rules_without_a_bound_of_the_p99_compare_no_times():
    rules = Rules(steps=(100,), every=10, max_p99_ratio=None)
    watch = Watch(10)
    watch.add(Observation(10.0, took(500), took(1)))
    assert judge(watch, rules, 100, None).decision == "good"
