"""Versions are registered, replaced and removed on a real TorchServe, by the client."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from plain_archives import client_of

from vestal import (
    Client,
    ClientError,
    Conflict,
    DeadlineExceeded,
)
from vestal.project import Project, ReadyFile


@pytest.fixture(scope="module")
def server(plain_project: Project) -> ReadyFile:
    return ReadyFile.read(plain_project.ready_file)


@pytest.fixture(scope="module")
def client(server: ReadyFile) -> Iterator[Client]:
    with client_of(server) as client:
        yield client


class Load:
    """Call a model from 8 threads until the end of the block, and record every outcome."""

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
        """Wait until `count` more calls have ended."""
        needed, end = len(self.outcomes) + count, time.monotonic() + 60
        while len(self.outcomes) < needed:
            assert time.monotonic() < end, "calls hang"
            time.sleep(0.01)


def test_a_version_is_replaced_under_load_without_failed_requests(client: Client) -> None:
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
    client.register("echo-1.0.mar", timeout=60)  # the state that other tests expect
    client.set_default("echo", "1.0")
    client.unregister("echo", "2.0")


def test_draining_waits_for_a_busy_worker_while_another_is_idle(client: Client) -> None:
    client.register("described-1.0.mar", workers=2, timeout=60)
    answers: list[object] = []

    def work() -> None:
        answers.append(client.predict("described", b"3", version="1.0").value)

    thread = threading.Thread(target=work)
    started = time.monotonic()
    thread.start()
    arrived = 'ts_inference_requests_total{model_name="described",model_version="1.0"'
    while arrived not in client.metrics_text() or client.describe("described", "1.0").queue_pending:
        assert time.monotonic() - started < 3, "no worker has the request"
    client.unregister("described", "1.0")
    assert time.monotonic() - started >= 3
    thread.join(10)
    assert answers == [{"version": "1.0", "text": "3"}]


def test_the_error_of_a_version_without_workers_names_the_reason(client: Client) -> None:
    if not any(info.name == "small" for info in client.models()):
        client.register("small-1.0.mar", timeout=120)
    client.scale("small", 0)
    try:
        with pytest.raises(DeadlineExceeded, match=r'0 workers; client\.scale\("small", 1\)'):
            client.predict("small", b"0.005", timeout=4)
    finally:
        client.unregister("small", "1.0", drain=False)
