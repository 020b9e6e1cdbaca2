"""Retries have a budget, so that they do not make an outage worse."""

from __future__ import annotations

import threading
import time

import pytest
from client_both import both
from client_wire import QUEUE_FULL, HTTPServer

from vestal import Client, DeadlineExceeded
from vestal.client.backoff import BUDGET_POLL
from vestal.client.base import CallContext
from vestal.client.deadline import Deadline
from vestal.client.flow import ApiCall, HTTPRequest, HTTPResponse, Pause
from vestal.client.retry import send
from vestal.client.retry_state import FLOOR, RATIO, SAVINGS, RetryBudget, RetryState, SuspectGate
from vestal.client.settings import Addresses
from vestal.client.tokens import NoToken


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_ten_retries_a_second_are_always_allowed() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    assert [budget.spend(10) for _ in range(int(FLOOR))] == [0.0] * 10
    turns = [budget.spend(10) for _ in range(20)]
    assert turns == pytest.approx([n / FLOOR for n in range(1, 21)])  # each after the one before
    clock.now += 2
    assert budget.spend(10) == pytest.approx(0.1)


def test_a_retry_after_the_deadline_is_not_reserved() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(15):
        budget.spend(10)
    assert budget.spend(0.4) is None
    assert budget.spend(0.4) is None
    assert budget.spend(1) == pytest.approx(0.6)


def test_calls_with_a_response_earn_retries() -> None:
    budget = RetryBudget(Clock())
    while budget.spend(0) is not None:
        pass
    for _ in range(round(5 / RATIO)):
        budget.earn()
    assert [budget.spend(0) for _ in range(6)] == [0.0] * 5 + [None]
    for _ in range(10_000):
        budget.earn()
    free = 0
    while budget.spend(0) == 0.0:
        free += 1
    assert free == SAVINGS


def test_time_adds_nothing_to_savings() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    for _ in range(100):
        budget.earn()
    clock.now += 1000
    free = 0
    while budget.spend(0) == 0.0:
        free += 1
    assert free == FLOOR + 20


@both
def test_an_outage_gets_no_more_than_the_floor(kind: type[Client]) -> None:
    with HTTPServer(lambda _: QUEUE_FULL) as server, kind(server.url) as client:
        started = time.monotonic()
        results = client.predict_many("m", [b"x"] * 32, concurrency=32, timeout=2)
        seconds = time.monotonic() - started
        retries = len(server.received) - 32
    assert {type(result) for result in results} == {DeadlineExceeded}
    assert seconds < 5
    assert FLOOR <= retries <= FLOOR + FLOOR * seconds + 1


def test_a_call_without_budget_waits_until_its_deadline() -> None:
    retry_state = RetryState()
    while retry_state.budget.spend(0.5) is not None:
        pass
    context = CallContext(
        Addresses("http://server", None, None), NoToken(), Deadline(0.2), retry_state=retry_state
    )
    steps = send(context, ApiCall("inference", "POST", "/predictions/m", model="m"))
    assert isinstance(steps.send(None), HTTPRequest)
    pause = steps.send(HTTPResponse(503, "", {}, b""))
    assert isinstance(pause, Pause)
    assert pause.seconds == BUDGET_POLL
    time.sleep(0.2)
    with pytest.raises(DeadlineExceeded, match="waiting to try again") as caught:
        steps.send(None)
    assert caught.value.status == 503


def test_a_cancelled_call_returns_its_retry_to_the_budget() -> None:
    retry_state = RetryState()
    for _ in range(3):
        context = CallContext(
            Addresses("http://server", None, None), NoToken(), Deadline(30), retry_state=retry_state
        )
        steps = send(context, ApiCall("inference", "POST", "/predictions/m", model="m"))
        steps.send(None)
        assert isinstance(steps.send(HTTPResponse(503, "", {}, b"")), Pause)
        steps.close()
    free = 0
    while retry_state.budget.spend(0) == 0.0:
        free += 1
    assert free == FLOOR


def test_one_suspect_of_a_model_is_on_its_way() -> None:
    gate = SuspectGate()
    assert gate.try_acquire("a")
    assert not gate.try_acquire("a")
    assert gate.try_acquire("b")
    gate.release_slot("a")
    assert gate.try_acquire("a")


@both
def test_suspects_are_tried_again_one_at_a_time(kind: type[Client]) -> None:
    from client_wire import WORKER_DIED, Received, http

    seen: dict[bytes, int] = {}
    now = most = 0
    lock = threading.Lock()

    def answer(request: Received) -> bytes:
        nonlocal now, most
        with lock:
            seen[request.body] = seen.get(request.body, 0) + 1
            if seen[request.body] == 1:
                return WORKER_DIED
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return http(200, {})

    with HTTPServer(answer) as server, kind(server.url) as client:
        inputs = [str(n).encode() for n in range(12)]
        results = client.predict_many("m", inputs, concurrency=12, timeout=20)
    assert [result.attempts for result in results] == [2] * 12
    assert most == 1


def test_a_suspect_does_not_wait_longer_than_half_of_its_time() -> None:
    retry_state = RetryState()
    assert retry_state.suspect_gate.try_acquire("m")  # and never leaves
    context = CallContext(
        Addresses("http://server", None, None), NoToken(), Deadline(0.6), retry_state=retry_state
    )
    steps = send(context, ApiCall("inference", "POST", "/predictions/m", model="m"))
    step = steps.send(None)
    started = time.monotonic()
    step = steps.send(HTTPResponse(507, "", {}, b'{"message": "Worker died."}'))
    while isinstance(step, Pause):
        time.sleep(step.seconds)
        step = steps.send(None)
    assert isinstance(step, HTTPRequest)
    assert 0.2 < time.monotonic() - started < 0.5
    with pytest.raises(StopIteration):
        steps.send(HTTPResponse(200, "", {}, b"{}"))
    assert not retry_state.suspect_gate.try_acquire("m")  # it was not this call's to give back


def test_without_a_deadline_a_suspect_waits_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestal.client.retry_state.SLOT_SECONDS", 0.05)
    retry_state = RetryState()
    assert retry_state.suspect_gate.try_acquire("m")
    context = CallContext(
        Addresses("http://server", None, None), NoToken(), Deadline(None), retry_state=retry_state
    )
    steps = send(context, ApiCall("inference", "POST", "/predictions/m", model="m"))
    steps.send(None)
    step = steps.send(HTTPResponse(507, "", {}, b'{"message": "Worker died."}'))
    while isinstance(step, Pause):
        time.sleep(step.seconds)
        step = steps.send(None)
    assert isinstance(step, HTTPRequest)
    steps.close()
