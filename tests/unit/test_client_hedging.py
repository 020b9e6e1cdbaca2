"""A request that may be lost gets a second copy, which never replaces a healthy request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from client_both import both
from client_losing import CUT, NEVER, Losing
from client_wire import (
    BAD_TOKEN,
    QUEUE_FULL,
    WORKER_DIED,
    error,
    http,
    until,
)

from vestal import Client, DeadlineExceeded, RequestRefused, WorkerDied
from vestal.client import hedging
from vestal.client.flow import Outcome
from vestal.client.prediction import Prediction

pytestmark = pytest.mark.heavy

FIRST, SECOND, THIRD = http(body="first"), http(body="second"), http(body="third")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedging, "SHORTEST_WAIT", 0.05)
    monkeypatch.setattr(hedging, "POLL", 0.01)


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """The outcomes of copies that did not end their call."""
    outcomes: list[Outcome] = []
    settles = hedging.HedgingPolicy.settles

    def recorded(policy: hedging.HedgingPolicy, outcome: Outcome) -> bool:
        ended = settles(policy, outcome)
        if not ended:
            outcomes.append(outcome)
        return ended

    monkeypatch.setattr(hedging.HedgingPolicy, "settles", recorded)
    return outcomes


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


Send = Callable[..., "Future[Prediction]"]


@pytest.fixture
def send(pool: ThreadPoolExecutor) -> Send:
    """Send the body "lost" from another thread, after a first response."""

    def call(client: Client, timeout: float = 5, version: str | None = None) -> Future[Prediction]:
        assert client.predict("m", b"other", version=version).value == "other"
        return pool.submit(client.predict, "m", b"lost", version=version, timeout=timeout)

    return call


@both
def test_a_lost_request_gets_the_response_to_its_copy(kind: type[Client], send: Send) -> None:
    with Losing(NEVER, SECOND) as server, kind(server.url, token="t") as client:
        answer = send(client).result()
        assert (answer.value, answer.attempts, server.seen) == ("second", 2, 2)
        assert client.predict("m", b"other").attempts == 1


@both
def test_a_lost_copy_is_followed_by_another_copy(kind: type[Client], send: Send) -> None:
    with Losing(NEVER, NEVER, THIRD) as server, kind(server.url) as client:
        assert send(client, timeout=2).result().value == "third"


@both
def test_a_slow_request_keeps_its_first_copy(kind: type[Client], send: Send) -> None:
    copied = threading.Event()
    with Losing((copied, FIRST), NEVER) as server, kind(server.url) as client:
        call = send(client)
        until(lambda: server.seen == 2)
        copied.set()
        answer = call.result()
        assert (answer.value, answer.attempts, server.seen) == ("first", 2, 2)


@both
def test_a_lost_first_request_is_copied_at_half_of_its_time(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hedging, "WITHOUT_HISTORY", 0.1)
    with Losing(NEVER, SECOND) as server, kind(server.url) as client:
        answer = client.predict("m", b"lost", timeout=2)
        assert (answer.value, answer.attempts, server.seen) == ("second", 2, 2)
        assert answer.latency >= 1


@both
def test_the_first_request_of_a_version_is_not_copied_early(kind: type[Client], send: Send) -> None:
    with Losing(NEVER) as server, kind(server.url) as client:
        with pytest.raises(DeadlineExceeded, match="1 attempt"):
            client.predict("m", b"lost", timeout=0.5)
        assert client.predict("m", b"other", version="1.0").value == "other"
        with pytest.raises(DeadlineExceeded, match="1 attempt"):
            client.predict("m", b"lost", version="2.0", timeout=0.5)


@both
def test_copies_that_are_all_lost_end_at_the_deadline(kind: type[Client], send: Send) -> None:
    with Losing(NEVER) as server, kind(server.url) as client:
        with pytest.raises(DeadlineExceeded, match="attempts"):
            send(client, timeout=1).result()
        assert 2 <= server.seen <= 1 + hedging.MOST_COPIES


FAILURES = {
    "cut": CUT,
    "worker died": WORKER_DIED,
    "queue full": QUEUE_FULL,
    "no body": http(503),
    "prediction failed": error(503, "InternalServerException", "Prediction failed"),
    "failed": error(500, "InternalServerException", "what"),
    "too many": http(429, retry_after="100"),
    "bad gateway": http(502),
    "gateway timeout": http(504),
    "no such model": error(404, "ModelNotFoundException", "Model not found: m"),
    "bad token": BAD_TOKEN,
}
failing = pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)


@both
@failing
def test_a_copy_that_fails_leaves_a_healthy_first_request_alone(
    kind: type[Client], failure: bytes, send: Send, failed: list[Outcome]
) -> None:
    late = threading.Event()
    with Losing((late, FIRST), failure) as server, kind(server.url, token="t") as client:
        call = send(client, timeout=10)
        until(lambda: bool(failed))
        late.set()
        assert call.result().value == "first"


@both
@failing
def test_a_first_request_that_fails_leaves_a_healthy_copy_alone(
    kind: type[Client], failure: bytes, send: Send, failed: list[Outcome]
) -> None:
    copied, late = threading.Event(), threading.Event()
    with (
        Losing((copied, failure), (late, SECOND)) as server,
        kind(server.url, token="t") as client,
    ):
        call = send(client, timeout=10)
        until(lambda: server.seen == 2)
        copied.set()
        until(lambda: bool(failed))
        late.set()
        assert (call.result().value, server.seen) == ("second", 2)


@both
def test_a_rejected_copy_means_that_the_input_is_invalid(kind: type[Client], send: Send) -> None:
    refused = error(422, "InputError", "not for this model")
    with Losing(NEVER, refused) as server, kind(server.url) as client:
        with pytest.raises(RequestRefused, match="not for this model"):
            send(client).result()
        assert server.seen == 2


@both
@pytest.mark.parametrize("failure", [WORKER_DIED, CUT], ids=["worker died", "cut"])
def test_two_copies_that_fail_together_are_one_failure(
    kind: type[Client], failure: bytes, send: Send
) -> None:
    both_sent = threading.Event()
    together = (both_sent, failure)
    with Losing(together, together, THIRD) as server, kind(server.url) as client:
        call = send(client)
        until(lambda: server.seen == 2)
        both_sent.set()
        answer = call.result()
        assert (answer.value, answer.attempts) == ("third", 3)
    both_sent.clear()
    with Losing(together, together, failure) as server, kind(server.url) as client:
        call = send(client)
        until(lambda: server.seen == 2)
        both_sent.set()
        with pytest.raises(WorkerDied, match="twice"):
            call.result()


@both
def test_copies_that_die_one_after_the_other_are_two_deaths(
    kind: type[Client], send: Send, failed: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestal.client.retry.SAME_DEATH", 0.1)
    first, second = threading.Event(), threading.Event()
    with (
        Losing((first, WORKER_DIED), (second, WORKER_DIED), THIRD) as server,
        kind(server.url) as client,
    ):
        call = send(client)
        until(lambda: server.seen == 2)
        first.set()
        until(lambda: bool(failed))
        time.sleep(0.15)  # longer than SAME_DEATH
        second.set()
        with pytest.raises(WorkerDied, match="twice"):
            call.result()
        assert server.seen == 2


@both
def test_a_death_and_a_full_queue_are_one_death(kind: type[Client], send: Send) -> None:
    copied = threading.Event()
    with (
        Losing((copied, WORKER_DIED), (copied, QUEUE_FULL), WORKER_DIED) as server,
        kind(server.url) as client,
    ):
        call = send(client)
        until(lambda: server.seen == 2)
        copied.set()
        with pytest.raises(WorkerDied):
            call.result()
        assert server.seen == 3


@both
def test_the_error_names_the_failure_of_the_copy(kind: type[Client], send: Send) -> None:
    with Losing(NEVER, QUEUE_FULL) as server, kind(server.url) as client:
        with pytest.raises(DeadlineExceeded, match="no worker to serve") as caught:
            send(client, timeout=1).result()
        assert caught.value.status == 503


@both
def test_one_of_many_lost_requests_is_copied_until_a_response_arrives(
    kind: type[Client], send: Send
) -> None:
    answer_the_scout = threading.Event()
    scout = (answer_the_scout, SECOND)
    with Losing(*[NEVER] * 8, scout, THIRD) as server, kind(server.url) as client:
        calls = [send(client, timeout=8)]
        until(lambda: server.seen == 1)
        with ThreadPoolExecutor(7) as others:
            calls += [others.submit(client.predict, "m", b"lost", timeout=8) for _ in range(7)]
            until(lambda: server.seen == 9)
            time.sleep(0.5)
            assert server.seen == 9
            answer_the_scout.set()
            values = sorted(call.result().value for call in calls)
    assert values == ["second"] + ["third"] * 7


@both
def test_a_copy_counts_against_the_retry_budget(kind: type[Client], send: Send) -> None:
    with Losing(NEVER) as server, kind(server.url) as client:
        retry_state = getattr(client, "asynchronous", client)._retry_state
        with retry_state.budget._lock:
            retry_state.budget._retries = -10.0
        with pytest.raises(DeadlineExceeded, match="1 attempt"):
            send(client, timeout=0.6).result()
        assert server.seen == 1


@both
def test_without_hedging_no_request_is_copied(kind: type[Client], send: Send) -> None:
    with Losing(NEVER) as server, kind(server.url, hedge=False) as client:
        with pytest.raises(DeadlineExceeded, match="1 attempt"):
            send(client, timeout=0.8).result()
        assert server.seen == 1
