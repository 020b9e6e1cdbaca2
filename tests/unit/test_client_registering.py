"""A registration that fails leaves nothing behind; tests/e2e has the real servers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from client_both import both
from client_torchserve import FakeTorchServe, Version, ready
from client_wire import error

from vestal import Client, Conflict, ConnectionFailed, NoAddress, NotReady, ServerFailed, WorkerDied
from vestal.mar.sample import parse_sample

ANSWER = {"status": "done"}
"""The response to every prediction."""


def described(answer: Any, **other: Any) -> dict[str, Any]:
    """Return a Vestal handler's description of itself, with its sample."""
    sample = {"input": "a.txt", "content_type": "text/plain", "answer": answer, **other}
    text = json.dumps({"base64": base64.b64encode(b"seven").decode(), **sample})
    return {"sample": {"text": text, "length": len(text)}}


def stored(server: FakeTorchServe, number: str, **options: Any) -> None:
    server.store[f"m-{number}.mar"] = ("m", ready(number, **options))


def numbers(server: FakeTorchServe) -> list[str]:
    return [version.number for version in server.models.get("m", [])]


@both
def test_a_version_stays_only_if_it_returns_the_packed_prediction(
    kind: type[Client],
) -> None:
    with FakeTorchServe() as server, kind(server.url, management=server.url) as client:
        stored(server, "1.0", customized=described(ANSWER))
        assert client.register("m-1.0.mar").version == "1.0"
        stored(server, "2.0", customized=described({"status": "wrong"}))
        with pytest.raises(NotReady, match=r'status is "done", expected "wrong".*unregistered'):
            client.register("m-2.0.mar")
        assert numbers(server) == ["1.0"]
        assert [r.body for r in server.received if r.path.startswith("/predictions")] == [
            b"seven"
        ] * 2


@both
def test_another_version_becomes_the_default_before_a_failed_one_is_removed(
    kind: type[Client],
) -> None:
    def another(version: Version) -> None:
        if len(numbers(server)) == 1:  # registered by another client meanwhile
            server.models["m"] += [Version("2.0", "m-2.0.mar"), ready("3.0")]

    with FakeTorchServe() as server, kind(server.url, management=server.url) as client:
        stored(server, "1.0", customized=described("wrong"), on_fence=another)
        with pytest.raises(NotReady):
            client.register("m-1.0.mar")
        assert server.defaults == {"m": "3.0"}
        assert numbers(server) == ["2.0", "3.0"]


@both
def test_a_refused_registration_removes_nothing(kind: type[Client]) -> None:
    class Refusing(FakeTorchServe):
        def _register(self, request: Any) -> bytes:
            self.models["m"] = [ready("1.0")]  # another client was faster
            return error(409, "ConflictStatusException", "is already registered")

    with Refusing() as server, kind(server.url, management=server.url) as client:
        with pytest.raises(Conflict):
            client.register("m-1.0.mar")
        assert numbers(server) == ["1.0"]


@both
def test_a_sample_needs_the_inference_address(kind: type[Client]) -> None:
    with FakeTorchServe() as server, kind(management=server.url) as client:
        stored(server, "1.0", customized=described(ANSWER))
        with pytest.raises(NoAddress):
            client.register("m-1.0.mar")
        assert numbers(server) == []
        stored(server, "1.0")  # without a sample
        client.register("m-1.0.mar")


@pytest.mark.parametrize(
    ("customized", "error", "message"),
    [
        ({"sample": {"text": "", "length": 5}}, ServerFailed, "incomplete sample"),
        ({"sample": {"text": "{", "length": 1}}, NotReady, "packed with is invalid"),
        ({"sample": {"text": "{}", "length": 2}}, NotReady, "packed with is invalid"),
        ({"sample": 3}, ServerFailed, "sample that cannot be read"),
        ({"sample": {"text": 3, "length": 2}}, ServerFailed, "sample that cannot be read"),
    ],
)
def test_a_sample_that_cannot_be_read_removes_the_version(
    customized: Any, error: type[Exception], message: str
) -> None:
    with FakeTorchServe() as server, Client(server.url, management=server.url) as client:
        stored(server, "1.0", customized=customized)
        with pytest.raises(error, match=message):
            client.register("m-1.0.mar")
        assert numbers(server) == []


def test_a_handler_without_a_sample_registers() -> None:
    with FakeTorchServe() as server, Client(server.url, management=server.url) as client:
        answers: tuple[Any, ...] = ({}, {"pid": 100}, [], None, "text", {"sample": None})
        for customized in answers:
            stored(server, "1.0", customized=customized)
            client.register("m-1.0.mar")
            client.unregister("m", "1.0", drain=False)


def test_the_tolerance_of_the_sample_is_applied() -> None:
    sample = parse_sample(described(1.0, tolerance=0.5)["sample"]["text"])
    assert (sample.input, sample.tolerance, sample.answer) == (b"seven", 0.5, 1.0)


@both
def test_without_waiting_a_version_is_returned_before_it_is_loaded(kind: type[Client]) -> None:
    with FakeTorchServe() as server, kind(server.url, management=server.url) as client:
        stored(server, "1.0", customized=described("wrong"))
        server.store["m-1.0.mar"][1].workers = [("9000", "UNLOADING", -1)]
        assert client.register("m-1.0.mar", wait=False).version == "1.0"
        assert not client.describe("m").ready
        assert numbers(server) == ["1.0"]


@both
def test_a_served_version_is_verified_with_its_sample(kind: type[Client]) -> None:
    good = ready("1.0", customized=described(ANSWER))
    bad = ready("2.0", customized=described("wrong"))
    with (
        FakeTorchServe(m=[good, bad]) as server,
        kind(server.url, management=server.url) as client,
    ):
        client.verify("m")
        with pytest.raises(NotReady, match=r"m 2\.0 predicts its sample a\.txt differently"):
            client.verify("m", "2.0")
        assert [r.path for r in server.received if r.path.startswith("/predictions")] == [
            "/predictions/m/1.0",
            "/predictions/m/2.0",
        ]
        assert numbers(server) == ["1.0", "2.0"]


@both
def test_a_version_is_verified_with_another_sample(kind: type[Client]) -> None:
    sample = parse_sample(described("another")["sample"]["text"])
    with (
        FakeTorchServe(m=[ready("1.0", customized=described(ANSWER))]) as server,
        kind(server.url, management=server.url) as client,
        pytest.raises(NotReady, match="expected"),
    ):
        client.verify("m", sample=sample)


@both
def test_a_broken_connection_says_nothing_of_the_version(kind: type[Client]) -> None:
    class Ending(FakeTorchServe):
        """TorchServe that is killed while it has the sample."""

        def _respond(self, request: Any) -> bytes:
            if request.path.startswith("/predictions"):
                return b"HTTP/1.1 200 \r\nconnection: close\r\ncontent-length: 9\r\n\r\n"
            return super()._respond(request)

    with (
        Ending(m=[ready("1.0", customized=described(ANSWER))]) as server,
        kind(server.url, management=server.url) as client,
        pytest.raises(ConnectionFailed),
    ):
        client.verify("m")


@both
def test_without_a_sample_a_worker_must_respond(kind: type[Client]) -> None:
    dead = error(500, "InternalServerException", "Worker died.")
    with (
        FakeTorchServe(m=[ready("1.0"), ready("2.0", customized=dead)]) as server,
        kind(server.url, management=server.url) as client,
    ):
        client.verify("m", "1.0")
        with pytest.raises(WorkerDied):
            client.verify("m", "2.0")
