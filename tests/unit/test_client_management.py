"""Models and versions: listed, described, registered, scaled, made the default, removed."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

import pytest
from client_both import both
from client_torchserve import FakeTorchServe, Version, ready
from client_wire import HTTPServer, Received, error, http

from vestal import (
    Client,
    Conflict,
    DeadlineExceeded,
    ModelInfo,
    NotFound,
    NotReady,
    ServerFailed,
    TokenError,
    UsageError,
    Worker,
)


def manager(server: HTTPServer, timeout: float = 10) -> Client:
    return Client(management=server.url, timeout=timeout)


def test_all_versions_of_all_pages_are_listed() -> None:
    models = {name: [ready("1.0")] for name in "abcde"} | {"m": [ready("1.0"), ready("2.0")]}
    with FakeTorchServe(**models) as server, manager(server) as client:
        server.defaults["m"] = "2.0"
        listed = client.models()
    assert [info.name for info in listed] == ["a", "b", "c", "d", "e", "m", "m"]
    assert listed[-2:] == [
        ModelInfo("m", "1.0", default=False, archive="m-1.0.mar"),
        ModelInfo("m", "2.0", default=True, archive="m-2.0.mar"),
    ]


def test_a_description_is_typed() -> None:
    version = ready("1.0", workers=2, pending=3, customized={"pid": 100})
    version.workers[1] = ("9001", "UNLOADING", -1)
    with FakeTorchServe(m=[version]) as server, manager(server) as client:
        plain = client.describe("m")
        customized = client.describe("m", "1.0", customized=True)
        assert [each.version for each in client.versions("m")] == ["1.0"]
    assert plain.workers == (Worker("9000", "READY", 100), Worker("9001", "UNLOADING", None))
    assert (plain.queue_pending, plain.queue_remaining) == (3, 100)
    assert (plain.ready, plain.customized, customized.customized) == (False, None, {"pid": 100})
    assert plain.raw["responseTimeout"] == plain.response_timeout == 120


def test_an_address_other_than_the_management_address_raises() -> None:
    with HTTPServer(lambda _: http(200, b"hello")) as server, manager(server) as client:
        for call in (client.models, lambda: client.describe("m"), lambda: client.versions("m")):
            with pytest.raises(ServerFailed, match="usually port 8081"):
                call()


@pytest.mark.parametrize(
    "document",
    [
        {"models": [{"name": "m"}]},
        {"models": 3},
        {"status": "fine"},
        [{"modelName": "m"}],
        [{"modelName": "m", "modelVersion": "1.0", "workers": [3]}],
        ["m"],
        [],
        3,
        None,
    ],
)
def test_json_of_another_service_is_rejected(document: object) -> None:
    with HTTPServer(lambda _: http(200, document)) as server, manager(server) as client:
        for call in (client.models, lambda: client.describe("m"), lambda: client.versions("m")):
            with pytest.raises(ServerFailed, match="usually port 8081"):
                call()


@both
def test_a_server_that_has_not_written_its_key_file_is_not_ready_yet(
    kind: type[Client], tmp_path: Path
) -> None:
    keys = tmp_path / "key_file.json"
    with (
        FakeTorchServe(m=[ready()]) as server,
        kind(management=server.url, key_file=keys) as client,
    ):
        assert client.ready("m") is False
        write = threading.Timer(0.3, keys.write_text, ['{"management": {"key": "k"}}'])
        write.start()
        assert client.wait_ready("m", timeout=5).ready
        write.join()
        keys.write_text('{"management": 3}')
        with kind(management=server.url, key_file=keys) as other, pytest.raises(TokenError):
            other.wait_ready("m")


@both
@pytest.mark.parametrize("status", [502, 504])
def test_a_proxy_with_nothing_behind_it_is_not_ready_yet(kind: type[Client], status: int) -> None:
    answers = iter([http(status), http(status), http(status)])
    with (
        FakeTorchServe(m=[ready()]) as up,
        HTTPServer(lambda request: next(answers, None) or up._respond(request)) as server,
        kind(management=server.url) as client,
    ):
        assert client.ready("m") is False
        assert client.wait_ready("m").ready


def test_ready_needs_every_worker_and_a_response() -> None:
    up, half, none = ready(), ready(workers=2), ready()
    half.workers[1] = ("9001", "UNLOADING", 7)
    none.workers = []
    with FakeTorchServe(up=[up], half=[half], none=[none]) as server, manager(server) as client:
        assert client.ready("up")
        assert not client.ready("half")
        assert not client.ready("none")
        assert not client.ready("unknown")
        assert not client.ready("up", "2.0")
        assert not client.ready()
        del server.models["half"], server.models["none"]
        assert client.ready()
        up.customized = error(503, "InternalServerException", "Prediction failed")
        assert client.ready("up")  # its handler cannot describe itself; its worker answered
        up.customized = error(503, "ServiceUnavailableException", "no worker")
        assert not client.ready("up")
        up.customized = error(500, "InternalServerException", "Worker died.")
        assert not client.ready("up")
        with pytest.raises(DeadlineExceeded, match="but none of them responded"):
            client.wait_ready("up", timeout=3)
        with pytest.raises(UsageError, match="without a model"):
            client.ready(version="1.0")
    with manager(server) as client:
        assert not client.ready("up")  # nothing listens there


def test_the_last_state_is_reported_when_a_call_has_no_time_left() -> None:
    released, calls = threading.Event(), []

    def hang_from_the_second_call_on(_: object) -> None:
        calls.append(1)
        if len(calls) > 1:
            released.wait(30)

    up = ready(on_fence=hang_from_the_second_call_on)
    up.customized = error(500, "InternalServerException", "Worker died.")
    with FakeTorchServe(up=[up]) as server, manager(server) as client:
        with pytest.raises(DeadlineExceeded, match="1 of 1 workers READY, but none of them"):
            client.wait_ready("up", timeout=1)
        released.set()
    assert len(calls) == 2


def test_waiting_ends_when_the_version_is_ready() -> None:
    descriptions = count(1)

    def comes_up(version: Version) -> None:
        if next(descriptions) == 3:
            version.workers = [("9000", "READY", 5)]

    version = Version("1.0", "m-1.0.mar", [("9000", "UNLOADING", -1)], on_describe=comes_up)
    with FakeTorchServe(m=[version]) as server, manager(server) as client:
        assert client.wait_ready("m").ready


def test_waiting_ends_at_the_deadline_with_the_last_state() -> None:
    version = Version("1.0", "m-1.0.mar", [("9000", "UNLOADING", 5)])
    with FakeTorchServe(m=[version]) as server, manager(server, timeout=0.3) as client:
        with pytest.raises(DeadlineExceeded, match="0 of 1 workers READY"):
            client.wait_ready("m")
        with pytest.raises(DeadlineExceeded, match="Model not found: other"):
            client.wait_ready("other")


def test_a_worker_that_keeps_dying_is_distinguished_from_one_that_loads() -> None:
    pids = count(100)

    def dies(version: Version) -> None:
        version.workers = [("9000", "UNLOADING", next(pids))]

    version = Version("1.0", "m-1.0.mar", [], on_describe=dies)
    with (
        FakeTorchServe(m=[version]) as server,
        manager(server) as client,
        pytest.raises(NotReady, match=r"m 1\.0 does not load: worker 9000 lost 2") as caught,
    ):
        client.wait_ready("m")
    assert (caught.value.model, caught.value.version) == ("m", "1.0")


def test_a_registered_archive_is_found_and_waited_for() -> None:
    descriptions = count(1)

    def comes_up(version: Version) -> None:
        if next(descriptions) == 3:
            version.workers = [("9000", "READY", 5)]

    with FakeTorchServe(m=[ready("1.0")]) as server, manager(server) as client:
        server.store["m-2.0.mar"] = ("m", Version("2.0", "m-2.0.mar", [], on_describe=comes_up))
        info = client.register("m-2.0.mar", workers=1)
    assert info == ModelInfo("m", "2.0", default=False, archive="m-2.0.mar")
    assert server.changes == [
        "POST /models?url=m-2.0.mar&initial_workers=1&synchronous=false"
    ]  # never synchronous


def test_a_registered_archive_may_have_another_name_and_no_workers() -> None:
    with FakeTorchServe() as server, manager(server) as client:
        none = Version("1.0", "m-1.0.mar", [], min_workers=0)
        server.store["m-1.0.mar"] = ("m", none)
        info = client.register("m-1.0.mar", model="other", workers=0)
    assert info == ModelInfo("other", "1.0", default=True, archive="m-1.0.mar")


@pytest.mark.parametrize(
    "archive", ["http://host/m.mar", "s3://bucket/m.mar", "/tmp/m.mar", "../m.mar", "a\\b.mar", ""]
)
def test_only_a_file_name_is_registered(archive: str) -> None:
    with FakeTorchServe() as server, manager(server) as client:
        with pytest.raises(UsageError, match="not a URL and not a path"):
            client.register(archive)
        with pytest.raises(UsageError, match="workers is -1"):
            client.register("m.mar", workers=-1)
        with pytest.raises(NotFound, match="must be a file in the server's model store"):
            client.register("m.mar")
        assert len(server.changes) == 1


def test_scaling_waits_for_the_workers() -> None:
    descriptions = count(1)

    def comes_up(version: Version) -> None:
        if next(descriptions) == 3:
            version.workers.append(("9001", "READY", 101))

    version = ready("1.0", on_describe=comes_up)
    with FakeTorchServe(m=[version]) as server, manager(server) as client:
        client.scale("m", 2)
        assert len(version.workers) == 2
        version.workers = []
        client.scale("m", 0, "1.0")
    assert server.changes == [
        "PUT /models/m?min_worker=2&max_worker=2&synchronous=false",
        "PUT /models/m/1.0?min_worker=0&max_worker=0&synchronous=false",
    ]


def test_the_default_is_set() -> None:
    with FakeTorchServe(m=[ready("1.0"), ready("2.0")]) as server, manager(server) as client:
        client.set_default("m", "2.0")
        assert client.describe("m").version == "2.0"
        with pytest.raises(NotFound):
            client.set_default("m", "3.0")


def test_the_default_is_not_removed_while_others_are_served() -> None:
    with FakeTorchServe(m=[ready("1.0"), ready("2.0")]) as server, manager(server) as client:
        with pytest.raises(Conflict, match=r"\(2\.0\).*client\.set_default"):
            client.unregister("m", "1.0", drain=False)
        assert server.changes == []
        client.unregister("m", "2.0", drain=False)
        client.unregister("m", "1.0", drain=False)  # the last one may go
        with pytest.raises(NotFound):
            client.unregister("m", "1.0", drain=False)


@both
def test_registering_an_existing_version_waits_and_does_not_remove_it(kind: type[Client]) -> None:
    conflict = error(
        409,
        "ConflictStatusException",
        "Model version 1.0 is already registered for model m",
    )

    def answer(request: Received) -> bytes:
        return conflict if request.method == "POST" else http(200, {"models": []})

    with (
        HTTPServer(answer) as server,
        kind(management=server.url) as client,
        pytest.raises(Conflict, match=r'already registered.*client\.wait_ready\("m", "1\.0"\)'),
    ):
        client.register("m-1.0.mar")
