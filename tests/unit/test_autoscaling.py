"""The number of workers follows the load that TorchServe reports."""

from __future__ import annotations

import pytest

from vestal.client import ModelDescription
from vestal.fleet import autoscaling
from vestal.fleet.autoscaling import Autoscaler, load_sample
from vestal.fleet.desired import Workers
from vestal.fleet.traffic import Counters, Interval, Window

ONE_TO_TWO = Workers(min=1, max=2)


def description(workers: int = 1, ready: int | None = None, pending: int = 0) -> ModelDescription:
    ready = workers if ready is None else ready
    states = ["READY"] * ready + ["UNLOADING"] * (workers - ready)
    return ModelDescription.parse(
        {
            "modelName": "m",
            "modelVersion": "1.0",
            "modelUrl": "m-1.0.mar",
            "minWorkers": workers,
            "maxWorkers": workers,
            "batchSize": 1,
            "maxBatchDelay": 50,
            "responseTimeout": 120,
            "workers": [{"id": str(n), "status": s, "pid": 9} for n, s in enumerate(states)],
            "jobQueueStatus": {"pendingRequests": pending, "remainingCapacity": 100 - pending},
        }
    )


def load(delay: float, busy: float = 0.9) -> Window:
    """Ten requests in a second, which waited `delay` seconds each."""
    counted = Counters(
        arrivals=10, requests=10, batches=10, queue=10 * delay, latency=10 * delay + busy
    )
    counted.handler = busy
    return Window((Interval(1.0, counted),))


@pytest.fixture
def seconds(monkeypatch):
    now = iter(range(100000))
    monkeypatch.setattr(autoscaling.time, "monotonic", lambda: float(next(now)))


def test_a_long_queue_adds_a_worker_and_gives_the_delay_as_the_reason(seconds):
    scaler = Autoscaler()
    steps = [scaler.step(ONE_TO_TWO, description(), load(0.4)) for _ in range(5)]
    assert steps[:4] == [None] * 4
    assert (steps[4].workers, steps[4].workers_before) == (2, 1)
    assert steps[4].why == "requests wait 400 ms in the queue"


def test_a_new_worker_starts_a_new_history(seconds):
    scaler = Autoscaler()
    for _ in range(4):
        scaler.step(ONE_TO_TWO, description(), load(0.4))
    assert scaler.step(Workers(min=1, max=3), description(2), load(0.4)) is None


def test_a_quiet_version_loses_its_second_worker(seconds):
    scaler = Autoscaler()
    steps = [scaler.step(ONE_TO_TWO, description(2), Window()) for _ in range(301)]
    assert [step for step in steps if step] == steps[-1:]
    assert steps[-1].workers == 1


def test_a_fixed_number_of_workers_is_left_alone(seconds):
    scaler = Autoscaler()
    for _ in range(50):
        assert scaler.step(Workers(min=1, max=1), description(), load(9.0)) is None


def test_a_forgotten_version_starts_a_new_history(seconds):
    scaler = Autoscaler()
    for _ in range(4):
        scaler.step(ONE_TO_TWO, description(), load(0.4))
    scaler.keep_only("other", [])
    scaler.keep_only("m", ["2.0"])
    assert scaler.step(ONE_TO_TWO, description(), load(0.4)) is None


def test_the_load_of_a_foreign_archive_is_its_time_outside_the_queue():
    counted = Counters(arrivals=4, latency=2.0, queue=1.2)
    sample = load_sample(1.0, description(), Window((Interval(2.0, counted),)))
    assert sample.queue == pytest.approx(0.3)
    assert sample.busy == pytest.approx(0.4)


def test_a_queue_of_which_nothing_is_answered_has_no_delay():
    counted = Counters(arrivals=4)
    sample = load_sample(1.0, description(pending=4), Window((Interval(1.0, counted),)))
    assert (sample.queue, sample.pending) == (None, 4)
