"""Workers are added when requests wait, and removed after a long quiet time."""

from __future__ import annotations

from vestal.fleet.desired import Workers
from vestal.fleet.scaling import LoadSample, ScalingPolicy, decide

POLICY = ScalingPolicy(up_delay=0.1, up_samples=5, down_seconds=300, down_load=0.5)
DELAY = 0.05
ONE_TO_FOUR = Workers(min=1, max=4)


def history(count: int, queue: float | None, pending: int = 0, busy: float = 0.0):
    return [LoadSample(float(second), queue, pending, busy) for second in range(count)]


def number(samples, running: int = 2, workers: Workers = ONE_TO_FOUR, ready: int | None = None):
    return decide(samples, workers, running, running if ready is None else ready, DELAY, POLICY)


def test_a_worker_is_added_after_five_samples_with_a_long_queue():
    assert number(history(4, 0.2)) is None
    assert number(history(5, 0.2)) == 3


def test_one_short_delay_among_long_ones_starts_the_count_again():
    assert number([*history(9, 0.2), LoadSample(9, 0.01, 0, 1.0)]) is None


def test_the_time_for_collecting_a_batch_is_no_delay():
    assert number(history(100, DELAY + 0.09)) is None


def test_a_queue_of_which_nothing_is_answered_is_a_delay():
    assert number(history(5, None, pending=3)) == 3


def test_there_are_never_more_workers_than_max():
    assert number(history(50, 9.0), running=4) is None


def test_nothing_changes_while_a_worker_starts():
    assert number(history(50, 9.0), ready=1) is None


def test_a_worker_is_removed_after_five_quiet_minutes():
    assert number(history(300, None)) is None
    assert number(history(301, None)) == 1


def test_no_worker_is_removed_while_the_others_would_be_busy():
    assert number(history(400, 0.01, busy=0.6)) is None
    assert number(history(400, 0.01, busy=0.4)) == 1


def test_a_delay_in_the_last_five_minutes_keeps_the_workers():
    for second, expected in ((150, None), (90, 1)):
        samples = history(400, None)
        samples[second] = LoadSample(second, 0.5, 0, 1.0)
        assert number(samples) == expected


def test_there_are_never_fewer_workers_than_min():
    assert number(history(400, None), workers=Workers(min=2, max=4)) is None
    assert number(history(400, None), running=1) is None


def test_bounds_apply_at_once():
    assert number([], running=0) == 1
    assert number([], running=5, ready=0) == 4


def test_equal_bounds_never_scale():
    fixed = Workers(min=2, max=2)
    for samples in (history(400, 9.0), history(400, None)):
        assert number(samples, workers=fixed) is None


def test_a_steady_load_does_not_make_the_number_swing():
    """A load that needs two workers: the delay with one is long, with two it is short."""
    running, changes, samples = 1, 0, []
    for second in range(3600):
        samples.append(LoadSample(float(second), 0.5 if running == 1 else 0.01, 0, 0.9))
        wanted = decide(samples, ONE_TO_FOUR, running, running, DELAY, POLICY)
        if wanted is not None and wanted != running:
            running, changes, samples = wanted, changes + 1, []
    assert (running, changes) == (2, 1)
