"""Which requests are retried, how often, and after which pause."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from client_both import both
from client_wire import QUEUE_FULL, WORKER_DIED, HTTPServer, http
from client_wire import script as answers

from vestal import (
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    RequestRefused,
    ServerFailed,
    VestalError,
    WorkerDied,
)
from vestal.client.backoff import BASE, CAP, WITHOUT_DEADLINE, jittered
from vestal.client.base import CallContext
from vestal.client.deadline import Deadline
from vestal.client.flow import ApiCall, HTTPRequest, HTTPResponse, Pause, TransportFailure
from vestal.client.reachability import ReachedAddresses
from vestal.client.retry import send
from vestal.client.retry_state import RetryState
from vestal.client.settings import Addresses
from vestal.client.tokens import NoToken

OK = http(200, {"label": "7"})
ADDRESSES = Addresses("http://server", "http://server", None)


class Played:
    """A call whose outcomes are given, without a network and without waiting."""

    def __init__(
        self,
        *outcomes: HTTPResponse | TransportFailure,
        call: ApiCall,
        timeout: float | None = 1000,
        pings: Sequence[HTTPResponse | TransportFailure] = (),
        retry_state: RetryState | None = None,
    ) -> None:
        self.pauses: list[float] = []
        self.pings = 0
        self.requests: list[HTTPRequest] = []
        self.response: HTTPResponse | None = None
        self.error: VestalError | None = None
        left, alive = list(outcomes), list(pings)
        steps = send(
            CallContext(ADDRESSES, NoToken(), Deadline(timeout), retry_state or RetryState()), call
        )
        outcome: HTTPResponse | TransportFailure | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    outcome = None
                    continue
                assert isinstance(step, HTTPRequest)
                if step.url.endswith("/ping"):
                    self.pings += 1
                    outcome = alive.pop(0) if alive else FINE
                else:
                    self.requests.append(step)
                    outcome = left.pop(0) if len(left) > 1 else left[0]
        except StopIteration as stop:
            self.response = stop.value
        except VestalError as error:
            self.error = error


PREDICT = ApiCall("inference", "POST", "/predictions/m", model="m")
REGISTER = ApiCall("management", "POST", "/models", repeatable=False)
FINE = HTTPResponse(200, "", {}, b"{}")
REFUSED = TransportFailure("connecting", ConnectionRefusedError("refused"), sent=False)
CUT_EARLY = TransportFailure("sending the request", ConnectionResetError("reset"), sent=False)
CUT_LATE = TransportFailure("waiting for the answer", ConnectionResetError("reset"), sent=True)
BUSY = HTTPResponse(
    503, "", {}, b'{"type": "ServiceUnavailableException", "message": "queue full"}'
)
NOT_FOR_THIS_MODEL = HTTPResponse(422, "", {"x-model-name": "m"}, b'{"message": "3 rows"}')
DIED = HTTPResponse(507, "", {}, b'{"type": "InternalServerException", "message": "Worker died."}')


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_or_proxy_is_retried(status: int) -> None:
    played = Played(*[HTTPResponse(status, "", {}, b"")] * 5, FINE, call=PREDICT)
    assert played.response is FINE
    assert len(played.requests) == 6
    assert len(played.pauses) == 5


def test_a_server_that_was_reached_is_tried_until_the_deadline() -> None:
    assert ADDRESSES.inference is not None
    for call in (PREDICT, REGISTER):
        retry_state = RetryState(ReachedAddresses([ADDRESSES.inference]))
        assert Played(*[REFUSED] * 50, FINE, call=call, retry_state=retry_state).response is FINE


@pytest.mark.parametrize("outcome", [DIED, CUT_LATE])
def test_a_failure_that_the_input_may_cause_is_retried_once(
    outcome: HTTPResponse | TransportFailure,
) -> None:
    assert Played(outcome, FINE, call=PREDICT).response is FINE
    played = Played(outcome, call=PREDICT)
    assert len(played.requests) == 2
    assert isinstance(played.error, WorkerDied)
    assert played.error.attempts == 2
    assert "This input may kill the worker" in str(played.error)


def test_a_dead_worker_and_a_broken_connection_share_one_retry() -> None:
    played = Played(DIED, CUT_LATE, FINE, call=PREDICT)
    assert isinstance(played.error, WorkerDied)
    assert len(played.requests) == 2


def test_other_retries_do_not_use_up_the_single_retry() -> None:
    assert Played(BUSY, DIED, BUSY, REFUSED, FINE, call=PREDICT).response is FINE


def test_an_upload_that_is_cut_repeatedly_raises() -> None:
    assert Played(CUT_EARLY, CUT_EARLY, FINE, call=PREDICT).response is FINE
    played = Played(CUT_EARLY, call=PREDICT)
    assert len(played.requests) == 3
    assert isinstance(played.error, ConnectionFailed)
    assert "max_request_size" in str(played.error)


@pytest.mark.parametrize(
    "response",
    [
        HTTPResponse(400, "", {}, b'{"type": "InputError", "message": "no image"}'),
        HTTPResponse(404, "", {}, b""),
        HTTPResponse(422, "", {}, b""),
        HTTPResponse(500, "", {}, b'{"type": "InternalServerException", "message": "our fault"}'),
        HTTPResponse(
            503, "", {}, b'{"type": "InternalServerException", "message": "Prediction failed"}'
        ),
        HTTPResponse(507, "", {}, b'{"type": "InputError", "message": "out of memory"}'),
    ],
)
def test_a_final_response_is_never_retried(response: HTTPResponse) -> None:
    played = Played(response, call=PREDICT)
    assert len(played.requests) == 1
    assert isinstance(played.error, (RequestRefused, ServerFailed))


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 507])
def test_a_response_of_a_vestal_handler_is_final_whatever_its_status(status: int) -> None:
    by_header = HTTPResponse(status, "", {"x-model-name": "m"}, b'{"message": "Worker died."}')
    by_body = HTTPResponse(status, "", {}, b'{"message": "Worker died.", "request_id": "1"}')
    for response in (by_header, by_body):
        assert len(Played(response, call=PREDICT).requests) == 1


@pytest.mark.parametrize("outcome", [CUT_LATE, DIED, HTTPResponse(502, "", {}, b"")])
def test_a_request_that_the_server_may_have_executed_is_not_repeated(
    outcome: HTTPResponse | TransportFailure,
) -> None:
    played = Played(outcome, FINE, call=REGISTER)
    assert played.response is None
    assert len(played.requests) == 1


def test_a_final_transport_failure_is_not_retried() -> None:
    unknown = TransportFailure("connecting", OSError("no such name"), sent=False, final=True)
    played = Played(unknown, call=PREDICT)
    assert isinstance(played.error, ConnectionFailed)
    assert len(played.requests) == 1


def test_pauses_grow_with_full_jitter_up_to_the_cap(rng: random.Random) -> None:
    for failures in range(1, 12):
        bound = min(CAP, BASE * 2 ** (failures - 1))
        drawn = [jittered(failures) for _ in range(2000)]
        assert 0 <= min(drawn) < 0.05 * bound
        assert 0.95 * bound < max(drawn) <= bound


def test_retry_after_is_respected() -> None:
    wait = HTTPResponse(503, "", {"retry-after": "7"}, b"")
    assert Played(wait, FINE, call=PREDICT).pauses == [7.0]


def test_a_pause_beyond_the_deadline_raises_at_once() -> None:
    wait = HTTPResponse(429, "", {"retry-after": "70"}, b"")
    played = Played(wait, FINE, call=PREDICT, timeout=60)
    assert isinstance(played.error, Overloaded)
    assert played.error.retry_after == 70
    assert played.pauses == []


def test_without_a_deadline_the_attempts_are_counted() -> None:
    played = Played(REFUSED, call=PREDICT, timeout=None)
    assert isinstance(played.error, ConnectionFailed)
    assert len(played.requests) == WITHOUT_DEADLINE


@both
def test_a_prediction_has_the_number_of_attempts(kind: type[Client]) -> None:
    with HTTPServer(answers(QUEUE_FULL, WORKER_DIED, OK)) as server, kind(server.url) as client:
        answer = client.predict("m", b"x")
    assert answer.value == {"label": "7"}
    assert answer.attempts == 3
    assert [request.body for request in server.received] == [b"x"] * 3


def test_the_single_retry_after_a_break_waits_for_a_ping() -> None:
    played = Played(CUT_LATE, FINE, call=PREDICT, pings=[CUT_LATE, REFUSED, CUT_LATE])
    assert played.response is FINE
    assert (len(played.requests), played.pings) == (2, 4)
    played = Played(CUT_LATE, call=PREDICT, pings=[REFUSED] * 100, timeout=None)
    assert isinstance(played.error, ConnectionFailed)
    assert (len(played.requests), played.pings) == (1, WITHOUT_DEADLINE)
    assert Played(DIED, FINE, call=PREDICT).pings == 0  # TorchServe responded


def test_a_missing_model_is_retried_only_if_it_was_known_before_an_outage() -> None:
    unknown = HTTPResponse(404, "", {}, b'{"type": "ModelNotFoundException", "message": "m"}')
    retry_state = RetryState()
    assert len(Played(unknown, call=PREDICT, retry_state=retry_state).requests) == 1
    assert Played(FINE, call=PREDICT, retry_state=retry_state).response is FINE
    assert len(Played(unknown, call=PREDICT, retry_state=retry_state).requests) == 1
    assert (
        Played(REFUSED, unknown, unknown, FINE, call=PREDICT, retry_state=retry_state).response
        is FINE
    )
    assert len(Played(unknown, call=PREDICT, retry_state=retry_state).requests) == 1
    other = ApiCall("inference", "POST", "/predictions/other", model="other")
    played = Played(REFUSED, unknown, call=other, retry_state=retry_state)
    assert isinstance(played.error, NotFound)
    assert len(played.requests) == 2


def test_scaling_a_version_with_a_full_queue_is_retried() -> None:
    full = HTTPResponse(500, "", {}, b'{"type": "IllegalStateException", "message": "Deque full"}')
    scale = ApiCall("management", "PUT", "/models/m", {"min_worker": "0"}, model="m")
    played = Played(full, full, FINE, call=scale)
    assert played.response is FINE
    assert len(played.requests) == 3


@pytest.mark.parametrize("refused", [BUSY, NOT_FOR_THIS_MODEL])
def test_a_model_that_rejected_a_request_is_known_to_exist(refused: HTTPResponse) -> None:
    unknown = HTTPResponse(404, "", {}, b'{"type": "ModelNotFoundException", "message": "m"}')
    retry_state = RetryState()
    assert Played(refused, call=PREDICT, retry_state=retry_state, timeout=0.3).error is not None
    assert Played(REFUSED, unknown, FINE, call=PREDICT, retry_state=retry_state).response is FINE


def test_an_outage_ends_after_its_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    retry_state = RetryState()
    Played(FINE, call=PREDICT, retry_state=retry_state)
    retry_state.outages.record_break()
    assert retry_state.outages.broke_since_known("m")
    later = time.monotonic() + 121
    monkeypatch.setattr("vestal.client.retry_state.time.monotonic", lambda: later)
    assert not retry_state.outages.broke_since_known("m")


def test_a_deadline_that_passes_before_the_next_attempt_names_the_last_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("vestal.client.deadline.time", clock)
    context = CallContext(ADDRESSES, NoToken(), Deadline(20), RetryState())
    flow = send(context, PREDICT)
    flow.send(None)
    assert isinstance(flow.send(HTTPResponse(502, "", {}, b"")), Pause)
    now += 20
    with pytest.raises(DeadlineExceeded, match="before it was sent again, 1 attempt") as caught:
        flow.send(None)
    assert isinstance(caught.value.__cause__, ServerFailed)
