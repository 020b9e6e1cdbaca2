"""The client against a real TorchServe, with foreign handlers in plain archives."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from client_both import predictions

from vestal import (
    AsyncClient,
    Client,
    ClientError,
    Conflict,
    DeadlineExceeded,
    NotFound,
    NotReady,
    Prediction,
    RequestRefused,
    ServerFailed,
    TokenError,
    WorkerDied,
)
from vestal.project import Project, ReadyFile
from vestal.server.server import Server
from vestal.testing import FakeServer

ECHO = """
import os, secrets, time

WORKER = secrets.token_hex(8)

def handle(data, context):
    if data is None:  # at load
        return None
    if context.get_request_header(0, "describe"):
        if NAMES_ITSELF:
            return [{"worker": WORKER}]
        raise RuntimeError("I do not know how to describe myself")
    answers = []
    for index, row in enumerate(data):
        text = bytes(row.get("body") or row.get("data") or b"").decode()
        if text == "die":
            os._exit(1)
        if text == "raise":
            raise RuntimeError("as asked")
        time.sleep(float(text) if text else 0.2)
        if text == "0":
            context.set_response_status(code=422, phrase="Unprocessable", idx=index)
            answers.append(b"zero is not for this model")
        else:
            answers.append({"version": context.manifest["model"]["modelVersion"], "text": text})
    return answers
"""
BROKEN = """
def handle(data, context):
    raise RuntimeError("never reached")

raise RuntimeError("broken at import")
"""


def archive(store: Path, name: str, version: str, handler: str, config: str = "") -> None:
    source = store.parent / name / version
    source.mkdir(parents=True)
    (source / f"{name}_handler.py").write_text(handler)
    (source / "model-config.yaml").write_text(config)
    command: list[str | Path] = [
        Path(sys.executable).with_name("torch-model-archiver"),
        "--model-name",
        name,
    ]
    options: list[str | Path] = ["--version", version, "--handler", source / f"{name}_handler.py"]
    if config:
        options += ["--config-file", source / "model-config.yaml"]
    # The archiver stages in the temp folder by the model's name alone.
    environment = {**os.environ, "TMPDIR": str(source)}
    subprocess.run(
        [*command, *options, "--export-path", source], check=True, env=environment, timeout=60
    )
    (source / f"{name}.mar").rename(store / f"{name}-{version}.mar")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadyFile]:
    project = Project(tmp_path_factory.mktemp("foreign"))
    project.model_store.mkdir()
    silent = ECHO.replace("NAMES_ITSELF", "False")
    for version in ("1.0", "2.0"):
        archive(project.model_store, "echo", version, silent)
    for version in ("1.0", "2.0"):
        archive(project.model_store, "named", version, ECHO.replace("NAMES_ITSELF", "True"))
    archive(project.model_store, "broken", "1.0", BROKEN)
    small = "minWorkers: 1\nmaxWorkers: 1\njobQueueSize: 5\n"
    archive(project.model_store, "small", "1.0", silent, small)
    with Server(project, ["echo-1.0.mar"], port=0) as server:
        yield server.ready


@pytest.fixture(scope="module")
def client(server: ReadyFile) -> Iterator[Client]:
    with Client(
        server.inference,
        management=server.management,
        metrics=server.metrics,
        key_file=server.key_file,
    ) as client:
        yield client


class Load:
    """Calls a model from 8 threads until the end of the block, and records every outcome."""

    def __init__(self, client: Client, model: str) -> None:
        self.outcomes: list[object] = []
        self._call: Callable[[], object] = lambda: client.predict(model, b"")["version"]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(8)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.outcomes.append(self._call())
            except ClientError as error:
                self.outcomes.append(error)

    def more(self, count: int) -> None:
        """Waits until so many more calls have ended."""
        needed, end = len(self.outcomes) + count, time.monotonic() + 60
        while len(self.outcomes) < needed:
            assert time.monotonic() < end, "calls hang"
            time.sleep(0.01)


def test_a_plain_handler_is_supported(client: Client) -> None:
    answer = client.predict("echo", b"0.01")
    assert answer.value == {"version": "1.0", "text": "0.01"}
    assert answer.version is None
    assert answer.request_id
    assert 0.01 < answer.latency < 5
    assert client.ready("echo")
    assert "ts_inference_requests_total" in client.metrics_text()
    assert client.metrics().total("ts_inference_requests_total", model_name="echo") >= 1


def test_the_asynchronous_client_gets_a_response_too(server: ReadyFile) -> None:
    async def call() -> list[Prediction]:
        async with AsyncClient(
            server.inference,
            management=server.management,
            metrics=server.metrics,
            key_file=server.key_file,
        ) as client:
            assert "echo" in {info.name for info in await client.models()}
            assert await client.ready("echo")
            with pytest.raises(NotFound, match="Model not found: nobody"):
                await client.predict("nobody", b"x")
            with pytest.raises(DeadlineExceeded):
                await client.predict("echo", b"2", timeout=0.5)
            return predictions(await client.predict_many("echo", [b"0.01"] * 20, concurrency=20))

    answers = asyncio.run(call())
    assert [answer.value for answer in answers] == [{"version": "1.0", "text": "0.01"}] * 20


def test_a_fake_server_sends_the_errors_of_torchserve(client: Client, server: ReadyFile) -> None:
    def errors_of(caller: Client) -> list[tuple[object, ...]]:
        calls: list[Callable[[], object]] = [
            lambda: caller.predict("nobody", b"x"),
            lambda: caller.predict("echo", b"x", version="9.0"),
            lambda: caller.describe("nobody"),
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
    with pytest.raises(NotFound, match="Model not found: nobody"):
        client.predict("nobody", b"x")
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


def test_a_wrong_token_is_refused_by_name(server: ReadyFile) -> None:
    with (
        Client(server.inference, token="wrong") as stranger,
        pytest.raises(TokenError, match="the argument token"),
    ):
        stranger.predict("echo", b"x")


def test_an_input_that_kills_the_worker_costs_two_of_them(client: Client) -> None:
    with pytest.raises(WorkerDied) as caught:
        client.predict("echo", b"die", timeout=60)
    assert caught.value.attempts == 2
    assert client.wait_ready("echo", timeout=60).ready
    assert client.predict("echo", b"0.01").attempts == 1


def test_a_version_is_swapped_under_load_and_nothing_is_lost(client: Client) -> None:
    with Load(client, "echo") as load:
        load.more(8)
        info = client.register("echo-2.0.mar", timeout=60)
        assert (info.version, info.default) == ("2.0", False)
        load.more(8)
        with pytest.raises(Conflict, match="set_default"):
            client.unregister("echo", "1.0")
        client.set_default("echo", "2.0")
        client.unregister("echo", "1.0")
        load.more(16)
    counts = Counter(str(outcome) for outcome in load.outcomes)
    print(f"answers by version: {dict(counts)}")
    assert set(counts) == {"1.0", "2.0"}
    echo = [info for info in client.models() if info.name == "echo"]
    assert [(info.version, info.default) for info in echo] == [("2.0", True)]
    client.register("echo-1.0.mar", timeout=60)  # as the other tests expect it
    client.set_default("echo", "1.0")
    client.unregister("echo", "2.0")


def test_draining_waits_for_a_busy_worker_while_another_is_idle(client: Client) -> None:
    client.register("named-1.0.mar", workers=2, timeout=60)
    client.register("named-2.0.mar", timeout=60)
    client.set_default("named", "2.0")
    answers: list[object] = []

    def work() -> None:
        answers.append(client.predict("named", b"3", version="1.0").value)

    thread = threading.Thread(target=work)
    started = time.monotonic()
    thread.start()
    arrived = 'ts_inference_requests_total{model_name="named",model_version="1.0"'
    while arrived not in client.metrics_text() or client.describe("named", "1.0").queue_pending:
        assert time.monotonic() - started < 3, "the request is in no worker"
    client.unregister("named", "1.0")
    assert time.monotonic() - started >= 3
    thread.join(10)
    assert answers == [{"version": "1.0", "text": "3"}]


def test_a_model_that_does_not_load_is_not_left_registered(client: Client) -> None:
    with pytest.raises(NotReady, match=r"broken 1\.0 does not load"):
        client.register("broken-1.0.mar", timeout=120)
    assert not client.ready("broken")
    with pytest.raises(NotFound):
        client.predict("broken", b"x", timeout=1)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_burst_into_a_full_queue_is_served_at_the_servers_rate(
    server: ReadyFile, client: Client, kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The budget of retries alone would need minutes for these.
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
    assert max(result.attempts for result in predictions(results)) > 1  # the queue was full


def test_the_error_of_a_version_without_workers_names_the_reason(client: Client) -> None:
    if not any(info.name == "small" for info in client.models()):
        client.register("small-1.0.mar", timeout=120)
    client.scale("small", 0)
    try:
        with pytest.raises(DeadlineExceeded, match=r'0 workers; client\.scale\("small", 1\)'):
            client.predict("small", b"0.005", timeout=8)
    finally:
        client.unregister("small", "1.0", drain=False)
