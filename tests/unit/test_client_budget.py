"""Retries have a budget, so that they do not make an outage worse."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from client_both import both
from client_wire import QUEUE_FULL, WORKER_DIED, HTTPServer, Received, http

from vestal import Client, DeadlineExceeded
from vestal.client.backoff import BUDGET_POLL
from vestal.client.base import CallContext
from vestal.client.deadline import Deadline
from vestal.client.flow import ApiCall, Flow, HTTPRequest, HTTPResponse, Pause
from vestal.client.retry import send
from vestal.client.retry_state import (
    FLOOR,
    RATIO,
    SAVINGS,
    SLOT_SECONDS,
    RetryBudget,
    RetryState,
    SuspectGate,
)
from vestal.client.settings import Addresses
from vestal.client.tokens import NoToken


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def deadline_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every deadline; it moves only when the test moves it."""
    clock = Clock()
    monkeypatch.setattr("vestal.client.deadline.time", SimpleNamespace(monotonic=clock))
    return clock


def after_pauses(steps: Flow[HTTPResponse], step: object, clock: Clock) -> tuple[object, float]:
    """Pass all pauses; return the next step and the seconds that the pauses took."""
    paused = 0.0
    while isinstance(step, Pause):
        clock.now += step.seconds
        paused += step.seconds
        step = steps.send(None)
    return step, paused


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
def test_retries_during_an_outage_stay_within_the_floor(kind: type[Client]) -> None:
    with HTTPServer(lambda _: QUEUE_FULL) as server, kind(server.url) as client:
        started = time.monotonic()
        results = client.predict_many("m", [b"x"] * 32, concurrency=32, timeout=3)
        seconds = time.monotonic() - started
        retries = len(server.received) - 32
    assert {type(result) for result in results} == {DeadlineExceeded}
    assert FLOOR <= retries <= FLOOR + FLOOR * seconds + 1


def test_a_call_without_budget_waits_until_its_deadline(deadline_clock: Clock) -> None:
    retry_state = RetryState()
    while retry_state.budget.spend(50) is not None:
        pass
    context = CallContext(
        Addresses("http://server", None, None), NoToken(), Deadline(20), retry_state=retry_state
    )
    steps = send(context, ApiCall("inference", "POST", "/predictions/m", model="m"))
    assert isinstance(steps.send(None), HTTPRequest)
    pause = steps.send(HTTPResponse(503, "", {}, b""))
    assert isinstance(pause, Pause)
    assert pause.seconds == BUDGET_POLL
    deadline_clock.now += 20
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


def test_a_model_has_one_slot_for_suspects() -> None:
    gate = SuspectGate()
    assert gate.try_acquire("a")
    assert not gate.try_acquire("a")
    assert gate.try_acquire("b")
    gate.release_slot("a")
    assert gate.try_acquire("a")


@both
def test_suspects_are_retried_one_at_a_time(kind: type[Client]) -> None:
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


def test_a_call_waits_for_the_slot_for_half_of_its_time(deadline_clock: Clock) -> None:
    retry_state = RetryState()
    assert retry_state.suspect_gate.try_acquire("m")  # by another call
    context = CallContext(
        Addresses("http://server", None, None), NoToken(), Deadline(20), retry_state=retry_state
    )
    steps = send(context, ApiCall("inference", "POST", "/predictions/m", model="m"))
    steps.send(None)
    died = steps.send(HTTPResponse(507, "", {}, b'{"message": "Worker died."}'))
    step, paused = after_pauses(steps, died, deadline_clock)
    assert isinstance(step, HTTPRequest)
    assert paused == pytest.approx(10, abs=0.2)  # and a backoff
    with pytest.raises(StopIteration):
        steps.send(HTTPResponse(200, "", {}, b"{}"))
    assert not retry_state.suspect_gate.try_acquire("m")  # the other call still holds it


def test_without_a_deadline_a_call_waits_for_the_slot_for_slot_seconds(
    deadline_clock: Clock,
) -> None:
    retry_state = RetryState()
    assert retry_state.suspect_gate.try_acquire("m")
    context = CallContext(
        Addresses("http://server", None, None), NoToken(), Deadline(None), retry_state=retry_state
    )
    steps = send(context, ApiCall("inference", "POST", "/predictions/m", model="m"))
    steps.send(None)
    died = steps.send(HTTPResponse(507, "", {}, b'{"message": "Worker died."}'))
    step, paused = after_pauses(steps, died, deadline_clock)
    assert isinstance(step, HTTPRequest)
    assert paused == pytest.approx(SLOT_SECONDS, abs=0.2)  # and a backoff
    steps.close()
