"""A FakeServer replaces TorchServe in tests of its callers."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from vestal import (
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    RequestRefused,
    ServerFailed,
    TokenError,
    TooLarge,
    UsageError,
    WorkerDied,
    testing,
)
from vestal.client import Client
from vestal.testing import FakeFailure, FakeServer


def test_it_sends_the_responses_that_were_set() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("mnist", {"label": "7"})
        server.answer("mnist", {"label": "8"}, version="2.0")
        server.answer("raw", b"\x00\x01")
        server.answer("length", lambda request: len(request.body))
        server.answer("text", lambda request: request.json()["text"].upper())
        answer = client.predict("mnist", b"png")
        assert (answer.value, answer.version, answer.attempts) == ({"label": "7"}, "1.0", 1)
        assert client.predict("mnist", b"png", version="2.0").value == {"label": "8"}
        assert client.predict("raw", b"").value == b"\x00\x01"
        assert client.predict("length", b"four").value == 4
        assert client.predict("text", {"text": "abc"}).value == "ABC"
        assert client.explain("mnist", b"png")["label"] == "7"
        assert [(r.kind, r.model, r.version) for r in server.requests[:2]] == [
            ("predictions", "mnist", None),
            ("predictions", "mnist", "2.0"),
        ]
        assert server.requests[-1].kind == "explanations"


def test_it_responds_to_the_asynchronous_client() -> None:
    async def call() -> object:
        async with server.async_client() as client:
            return (await client.predict("mnist", b"png")).value

    with FakeServer() as server:
        server.answer("mnist", {"label": "7"})
        assert asyncio.run(call()) == {"label": "7"}


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (FakeFailure.WORKER_DIED, WorkerDied),
        (FakeFailure.HANDLER_RAISED, ServerFailed),
        (FakeFailure.TOO_LARGE, TooLarge),
        (FakeFailure.RESET, WorkerDied),
    ],
)
def test_it_fails_as_torchserve_does(failure: FakeFailure, error: type[Exception]) -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("m", {})
        server.fail("m", failure, times=2)
        with pytest.raises(error):
            client.predict("m", b"")


def test_the_client_retries_temporary_failures() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("m", {})
        server.fail("m", FakeFailure.QUEUE_FULL)
        server.fail("m", FakeFailure.RESET)
        assert client.predict("m", b"").attempts == 3
        server.fail("m", FakeFailure.QUEUE_FULL, times=1000)
        with pytest.raises(DeadlineExceeded) as caught:
            client.predict("m", b"", timeout=2)
        assert isinstance(caught.value.__cause__, Overloaded)


def test_a_silent_failure_ends_at_the_deadline() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("m", {})
        server.fail("m", FakeFailure.SILENCE)
        with pytest.raises(DeadlineExceeded):
            client.predict("m", b"", timeout=0.3)
        assert server.requests


def test_an_error_of_the_handler_is_not_retried() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("m", {})
        server.refuse("m", 422, "NaN is no number")
        with pytest.raises(RequestRefused, match="NaN is no number") as caught:
            client.predict("m", b"")
        assert caught.value.attempts == len(server.requests) == 1


def test_it_has_a_management_api() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("mnist", {"label": "7"})
        archive = server.store("mnist", {"label": "8"}, version="2.0")
        assert client.register(archive, workers=2).version == "2.0"
        with pytest.raises(Conflict, match="already registered"):
            client.register(archive)
        with pytest.raises(NotFound, match="model store"):
            client.register("nothing.mar")
        with pytest.raises(Conflict, match="set_default"):
            client.unregister("mnist", "1.0")
        client.set_default("mnist", "2.0")
        client.scale("mnist", 3)
        assert len(client.describe("mnist").workers) == 3
        client.unregister("mnist", "1.0")
        assert [(m.version, m.default) for m in client.models()] == [("2.0", True)]
        assert client.ready()
        assert client.predict("mnist", b"").value == {"label": "8"}
        client.unregister("mnist", "2.0")
        assert client.models() == []
        with pytest.raises(NotFound):
            client.versions("mnist")


def test_models_are_listed_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestal.client.management.PAGE", 2)
    with FakeServer() as server, server.client() as client:
        for name in "abcde":
            server.answer(name, {})
        assert [info.name for info in client.models()] == list("abcde")


@pytest.mark.parametrize(
    "answer", [lambda request: request.json()["missing"], {1, 2}, lambda _: object()]
)
def test_a_function_that_raises_fails_like_a_handler(
    answer: object, capfd: pytest.CaptureFixture[str]
) -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("m", answer)
        with pytest.raises(ServerFailed, match="Prediction failed") as caught:
            client.predict("m", {"a": 1})
    assert (caught.value.status, caught.value.attempts) == (503, 1)
    assert "Traceback" in capfd.readouterr().err


def test_a_version_without_workers_sends_503() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("m", {})
        client.scale("m", 0)
        with pytest.raises(DeadlineExceeded, match="has no worker"):
            client.predict("m", b"", timeout=2)
        with pytest.raises(DeadlineExceeded, match="has no worker"):
            client.describe("m", customized=True, timeout=2)
        client.scale("m", 1)
        assert client.predict("m", b"").value == {}


def test_it_refuses_the_same_requests_as_torchserve() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("mnist", {})
        with pytest.raises(NotFound, match=r"client\.models"):
            client.predict("nobody", b"")
        with pytest.raises(NotFound, match=r"9\.0 does not exist"):
            client.predict("mnist", b"", version="9.0")
        with pytest.raises(UsageError, match="without a slash"):
            server.answer("a/b", {})
    with FakeServer() as server:
        assert server.respond("PATCH", "/models/m/1/2", {}, b"")[0] == 405  # type: ignore[index]
        assert server.respond("GET", "/elsewhere", {}, b"")[0] == 404  # type: ignore[index]


def test_it_requires_a_token() -> None:
    with FakeServer(token="t0ken") as server:
        server.answer("m", {})
        with server.client() as client:
            client.predict("m", b"")
        with Client(server.url) as stranger, pytest.raises(TokenError):
            stranger.predict("m", b"")


def test_it_counts_requests() -> None:
    with FakeServer() as server, server.client() as client:
        server.answer("m", {})
        client.predict_many("m", [b""] * 5)
        assert client.metrics().total("ts_inference_requests_total", model_name="m") == 5


def test_a_closed_fake_server_refuses_connections() -> None:
    with FakeServer() as server:
        server.answer("m", {})
        client = server.client()
        client.predict("m", b"")
    server.close()
    with pytest.raises(DeadlineExceeded) as caught:
        client.predict("m", b"", timeout=2)
    assert isinstance(caught.value.__cause__, ConnectionFailed)
    client.close()


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, vestal.testing; from vestal.testing import FakeServer\n"
        "assert not {'requests', 'httpx', 'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert sorted(vestal.testing.__all__) == vestal.testing.__all__\n"
        "assert 'FakeServer' in dir(vestal.testing)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        testing.Nothing  # noqa: B018
