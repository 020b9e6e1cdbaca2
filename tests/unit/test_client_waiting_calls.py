"""Calls refused by a full queue are retried at the rate of the version's responses."""

from __future__ import annotations

import threading
import time

import pytest
from client_both import both
from client_torchserve import FakeTorchServe, Version, ready
from client_wire import QUEUE_FULL, HTTPServer, Received, http

from vestal import Client, DeadlineExceeded
from vestal.client.retry_state import FLOOR, RetryBudget
from vestal.client.waiting_calls import WaitingCalls

pytestmark = pytest.mark.heavy

M = ("m", None)


class Queue:
    """Serves one request at a time; rejects requests while `places` others wait."""

    def __init__(self, places: int, seconds: float = 0.005) -> None:
        self._places = threading.Semaphore(places)
        self._worker = threading.Lock()
        self._seconds = seconds
        self.refused = 0

    def __call__(self, _: Received) -> bytes:
        if not self._places.acquire(blocking=False):
            self.refused += 1
            return QUEUE_FULL
        try:
            with self._worker:
                time.sleep(self._seconds)
        finally:
            self._places.release()
        return http(200, {})


@pytest.fixture
def calls() -> WaitingCalls:
    budget = RetryBudget()
    while budget.spend(0) is not None:
        pass
    return WaitingCalls(budget)


@pytest.fixture
def slow_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only responses release a call: the budget alone would need minutes."""
    monkeypatch.setattr("vestal.client.retry_state.FLOOR", 1.0)
    monkeypatch.setattr("vestal.client.retry_state.RATIO", 0.0)


@both
@pytest.mark.usefixtures("slow_budget")
def test_a_burst_is_served_at_the_servers_rate(kind: type[Client]) -> None:
    queue = Queue(8)
    with HTTPServer(queue) as server, kind(server.url) as client:
        results = client.predict_many("m", [b"x"] * 150, concurrency=150, timeout=30)
    assert [result for result in results if isinstance(result, Exception)] == []
    assert queue.refused > 100
    # Each answer lets one call go, and each second one more.
    assert len(server.received) <= 150 + 150 + 30


def test_each_response_releases_the_oldest_call(calls: WaitingCalls) -> None:
    later, oldest, latest = (calls.enter(M, began, rest=60) for began in (2.0, 1.0, 3.0))
    calls.record_response(M)
    assert [turn.released.done() for turn in (later, oldest, latest)] == [False, True, False]
    calls.record_response(M)
    assert [turn.released.done() for turn in (later, oldest, latest)] == [True, True, False]


def test_responses_of_another_version_release_no_call(calls: WaitingCalls) -> None:
    turn = calls.enter(M, 1.0, rest=60)
    calls.record_response(("m", "2.0"))
    calls.record_response(("other", None))
    assert not turn.released.done()


def test_responses_are_not_saved_up_for_an_outage(calls: WaitingCalls) -> None:
    for _ in range(1000):
        calls.record_response(M)
    turn = calls.enter(M, 1.0, rest=0)
    calls.poll_budget(M)
    assert not turn.released.done()


def test_a_released_call_that_ends_releases_the_next_one(calls: WaitingCalls) -> None:
    first, second, third = (calls.enter(M, began, rest=60) for began in (1.0, 2.0, 3.0))
    calls.leave(M, second)
    calls.record_response(M)
    calls.leave(M, first)
    assert third.released.done()
    assert not second.released.done()


def test_without_responses_the_budget_releases_calls() -> None:
    calls = WaitingCalls(RetryBudget())
    turns = [calls.enter(M, float(n), rest=0 if n else 60) for n in range(20)]
    for _ in turns:
        calls.poll_budget(M)
    gone = [turn.released.done() for turn in turns]
    assert gone == [False] + [True] * int(FLOOR) + [False] * (19 - int(FLOOR))


@both
def test_the_error_names_a_version_without_workers(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestal.client.waiting_calls.SILENCE", 0.1)
    with (
        FakeTorchServe(m=[Version("1.0", "m-1.0.mar", [], min_workers=0)]) as management,
        HTTPServer(lambda _: QUEUE_FULL) as server,
        kind(server.url, management=management.url) as client,
        pytest.raises(DeadlineExceeded, match=r'm 1\.0 has 0 workers; client\.scale\("m", 1\)'),
    ):
        client.predict("m", b"x", timeout=1)


@both
def test_the_error_names_a_full_queue_without_progress(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestal.client.waiting_calls.SILENCE", 0.1)
    with (
        FakeTorchServe(m=[ready("1.0", pending=7)]) as management,
        HTTPServer(lambda _: QUEUE_FULL) as server,
        kind(server.url, management=management.url) as client,
        pytest.raises(DeadlineExceeded, match=r"m 1\.0 has 7 requests in its queue"),
    ):
        client.predict("m", b"x", timeout=1)
