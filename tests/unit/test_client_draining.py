"""A version is removed when it is idle, not when its queue is empty."""

from __future__ import annotations

import time
from itertools import count

import pytest
from client_both import both
from client_torchserve import FakeTorchServe, Version, ready
from client_wire import error

from vestal import Client, DeadlineExceeded

pytestmark = pytest.mark.heavy

DELETED = "DELETE /models/m/1.0"


def serving(version: Version) -> FakeTorchServe:
    return FakeTorchServe(m=[ready("2.0"), version])


@both
def test_draining_waits_for_an_empty_queue_before_it_describes_workers(kind: type[Client]) -> None:
    seen: list[str] = []
    version = ready("1.0", pending=2)

    def shrinks(version: Version) -> None:
        seen.append(f"queue {version.pending}")
        version.pending = max(0, version.pending - 1)

    version.on_describe = shrinks
    version.on_fence = lambda _: seen.append("fence")
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]
    # The queue is read again after the fence: a request may have arrived.
    assert seen == ["queue 2", "queue 1", "fence", "queue 0"]


@both
def test_draining_waits_for_a_request_that_arrived_during_the_fence(kind: type[Client]) -> None:
    fences = count(1)
    descriptions = 0
    version = ready("1.0")

    def one_more_comes(version: Version) -> None:
        version.pending = 1 if next(fences) == 1 else 0

    def is_done(version: Version) -> None:
        nonlocal descriptions
        descriptions += 1
        if descriptions == 4:
            version.pending = 0

    version.on_fence, version.on_describe = one_more_comes, is_done
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]
    assert next(fences) == 3  # both fences were needed


@both
@pytest.mark.parametrize(
    ("key", "idle", "busy"),
    [
        pytest.param("worker", "9f2c", "41aa", id="random ids"),
        pytest.param("pid", 100, 101, id="pids, as in archives packed by 0.1"),
    ],
)
def test_every_worker_describes_itself(
    kind: type[Client], key: str, idle: object, busy: object
) -> None:
    """An idle worker takes each fence, until its busy neighbour is done."""
    version = ready("1.0", workers=2)
    answering = iter([idle, idle, idle, busy])

    def fence(version: Version) -> None:
        version.customized = {key: next(answering)}

    version.on_fence = fence
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]
    assert list(answering) == []


@both
def test_a_worker_that_died_while_draining_has_no_requests(kind: type[Client]) -> None:
    version = ready("1.0", workers=2)

    def fence(version: Version) -> None:
        version.customized = {"pid": 100}
        version.workers[1] = ("9001", "UNLOADING", -1)

    version.on_fence = fence
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]


@both
def test_a_replaced_worker_does_not_count_for_its_busy_neighbour(kind: type[Client]) -> None:
    version = ready("1.0", workers=2)
    answering = iter(["first", "replacement", "replacement", "busy"])

    def fence(version: Version) -> None:
        worker = next(answering)
        if worker == "replacement":
            version.workers[0] = ("9000", "READY", 200)
        version.customized = {"worker": worker}

    version.on_fence = fence
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]
    assert list(answering) == []


@both
def test_a_version_without_workers_is_idle(kind: type[Client]) -> None:
    version = ready("1.0")
    version.workers = [("9000", "UNLOADING", 7)]
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]


@both
def test_a_handler_without_a_description_serves_as_a_fence(kind: type[Client]) -> None:
    failure = error(503, "InternalServerException", "Prediction failed")
    version = ready("1.0", customized=failure)
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]


@both
def test_a_describe_during_which_the_worker_dies_does_not_count(kind: type[Client]) -> None:
    fences = count(1)
    version = ready("1.0")

    def dies_first(version: Version) -> None:
        died = error(507, "InternalServerException", "Worker died.")
        version.customized = died if next(fences) <= 2 else {"pid": 100}

    version.on_fence = dies_first
    with serving(version) as server, kind(management=server.url) as client:
        client.unregister("m", "1.0")
        assert server.changes == [DELETED]
    assert next(fences) == 4


@both
def test_draining_waits_for_response_timeout_if_workers_cannot_be_distinguished(
    kind: type[Client],
) -> None:
    version = ready("1.0", workers=2, response_timeout=1, customized={"pid": 4711})
    with serving(version) as server, kind(management=server.url) as client:
        started = time.monotonic()
        client.unregister("m", "1.0")
        assert time.monotonic() - started >= 1
        assert server.changes == [DELETED]


@both
def test_draining_raises_at_once_if_the_deadline_is_too_short(
    kind: type[Client],
) -> None:
    version = ready("1.0", workers=2, response_timeout=120)
    with serving(version) as server, kind(management=server.url) as client:
        with pytest.raises(DeadlineExceeded, match=r"responseTimeout.*random ID"):
            client.unregister("m", "1.0", timeout=30)
        assert server.changes == []


@both
def test_a_version_that_stays_busy_stays_registered(kind: type[Client]) -> None:
    version = ready("1.0", pending=1)
    with serving(version) as server, kind(management=server.url) as client:
        with pytest.raises(DeadlineExceeded, match=r"1\.0 is not idle: it has requests"):
            client.unregister("m", "1.0", timeout=1)
        assert server.changes == []


@both
def test_the_last_state_is_reported_if_the_deadline_ends_a_call(kind: type[Client]) -> None:
    descriptions = iter([0.0, 2.0])
    version = ready("1.0", pending=1, on_describe=lambda _: time.sleep(next(descriptions, 0.0)))
    with serving(version) as server, kind(management=server.url) as client:
        with pytest.raises(DeadlineExceeded, match=r"1\.0 is not idle: it has requests"):
            client.unregister("m", "1.0", timeout=1)
        assert server.changes == []
