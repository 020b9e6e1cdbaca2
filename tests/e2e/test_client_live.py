"""Predictions of the client from a real TorchServe, with plain handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from client_both import predictions
from plain_archives import client_of

from vestal import (
    AsyncClient,
    Client,
    ClientError,
    Conflict,
    DeadlineExceeded,
    NotFound,
    Prediction,
    RequestRefused,
    ServerFailed,
    TokenError,
    WorkerDied,
)
from vestal.project import Project, ReadyFile
from vestal.testing import FakeServer


@pytest.fixture(scope="module")
def server(plain_project: Project) -> ReadyFile:
    return ReadyFile.read(plain_project.ready_file)


@pytest.fixture(scope="module")
def client(server: ReadyFile) -> Iterator[Client]:
    with client_of(server) as client:
        yield client


def test_a_plain_handler_is_supported(client: Client) -> None:
    answer = client.predict("echo", b"0.01")
    assert answer.value == {"version": "1.0", "text": "0.01"}
    assert answer.version is None
    assert answer.request_id
    assert 0.01 < answer.latency < 5
    assert client.ready("echo")
    assert "ts_inference_requests_total" in client.metrics_text()
    assert client.metrics().total("ts_inference_requests_total", model_name="echo") >= 1


def test_the_asynchronous_client_gets_responses(server: ReadyFile) -> None:
    async def call() -> list[Prediction]:
        async with AsyncClient(
            server.inference,
            management=server.management,
            metrics=server.metrics,
            key_file=server.key_file,
        ) as client:
            assert "echo" in {info.name for info in await client.models()}
            assert await client.ready("echo")
            with pytest.raises(NotFound, match="Model not found: missing"):
                await client.predict("missing", b"x")
            with pytest.raises(DeadlineExceeded):
                await client.predict("echo", b"2", timeout=0.5)
            return predictions(await client.predict_many("echo", [b"0.01"] * 20, concurrency=20))

    answers = asyncio.run(call())
    assert [answer.value for answer in answers] == [{"version": "1.0", "text": "0.01"}] * 20


def test_a_fake_server_sends_the_errors_of_torchserve(client: Client, server: ReadyFile) -> None:
    def errors_of(caller: Client) -> list[tuple[object, ...]]:
        calls: list[Callable[[], object]] = [
            lambda: caller.predict("missing", b"x"),
            lambda: caller.predict("echo", b"x", version="9.0"),
            lambda: caller.describe("missing"),
            lambda: caller.describe("echo", "9.0"),
            lambda: caller.register("nothing.mar"),
            lambda: caller.register("echo-1.0.mar"),
            lambda: caller.set_default("echo", "9.0"),
        ]
        found: list[tuple[object, ...]] = []
        for call in calls:
            with pytest.raises(ClientError) as caught:
                call()
            error = caught.value
            found.append((type(error), error.status, error.server_type, error.hint))
        return found

    with FakeServer() as fake, fake.client() as caller:
        fake.answer("echo", {})
        fake.store("echo", {})
        assert errors_of(caller) == errors_of(client)
        ours, theirs = (c.describe("echo", "1.0").raw.keys() for c in (caller, client))
        assert set(ours) <= set(theirs)


def test_failures_are_distinguished(client: Client) -> None:
    with pytest.raises(NotFound, match="Model not found: missing"):
        client.predict("missing", b"x")
    with pytest.raises(NotFound, match=r"9\.0 does not exist"):
        client.predict("echo", b"x", version="9.0")
    with pytest.raises(RequestRefused, match="422: zero is not for this model"):
        client.predict("echo", b"0")
    with pytest.raises(ServerFailed, match="503 InternalServerException: Prediction failed"):
        client.predict("echo", b"raise")
    with pytest.raises(NotFound, match="model store"):
        client.register("nothing.mar")
    with pytest.raises(Conflict, match="already registered"):
        client.register("echo-1.0.mar")
    with pytest.raises(DeadlineExceeded):
        client.predict("echo", b"2", timeout=0.5)


def test_the_error_for_a_wrong_token_names_its_source(server: ReadyFile) -> None:
    with (
        Client(server.inference, token="wrong") as unknown,
        pytest.raises(TokenError, match="the argument token"),
    ):
        unknown.predict("echo", b"x")


@pytest.mark.slow
def test_an_input_that_kills_a_worker_is_sent_to_only_two_workers(client: Client) -> None:
    with pytest.raises(WorkerDied) as caught:
        client.predict("echo", b"die", timeout=60)
    assert caught.value.attempts == 2
    assert client.wait_ready("echo", timeout=60).ready
    assert client.predict("echo", b"0.01").attempts == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_burst_into_a_full_queue_is_served_at_the_servers_rate(
    server: ReadyFile, client: Client, kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the budget of retries alone, these calls would take minutes.
    monkeypatch.setattr("vestal.client.retry_state.FLOOR", 1.0)
    monkeypatch.setattr("vestal.client.retry_state.RATIO", 0.0)
    if not any(info.name == "small" for info in client.models()):
        client.register("small-1.0.mar", timeout=120)
    inputs = [b"0.005"] * 150
    if kind is Client:
        with Client(server.inference, key_file=server.key_file, timeout=60) as caller:
            results = caller.predict_many("small", inputs, concurrency=150)
    else:

        async def burst() -> list[Prediction | ClientError]:
            async with AsyncClient(
                server.inference, key_file=server.key_file, timeout=60
            ) as caller:
                return await caller.predict_many("small", inputs, concurrency=150)

        results = asyncio.run(burst())
    assert [result for result in results if isinstance(result, ClientError)] == []
    assert max(result.attempts for result in predictions(results)) > 1  # the queue was full
