"""The keeper adds workers by the delay in the queue, and removes them without a lost request."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
from serving import START_SECONDS, archive, until

from vestal import Client
from vestal.fleet.desired import Desired, ModelTarget, Workers
from vestal.fleet.server import Server
from vestal.fleet.status import Source
from vestal.project import Project

SLEEPY = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep(max(float(bytes(row["body"])) if row.get("body") else 0 for row in data))
    return [b"{}"] * len(data)
"""
CONFIG = "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 4\nmaxBatchDelay: 100\nresponseTimeout: 60\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    project = Project(tmp_path_factory.mktemp("scaled"))
    archive(project.model_store, "sleepy", SLEEPY, config=CONFIG)
    with Server(project, ["sleepy-1.0.mar"], port=0) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    ready = server.ready
    with Client(
        ready.inference, management=ready.management, key_file=ready.key_file, retries=0
    ) as client:
        yield client


def desire(server: Server, least: int, most: int) -> None:
    """Change the bounds of the number of workers, and wait until the keeper has done it."""
    target = server.keeper.desired().models["sleepy"].versions["1.0"]
    versions = {"1.0": target.model_copy(update={"workers": Workers(min=least, max=most)})}
    desired = Desired(models={"sleepy": ModelTarget(default="1.0", versions=versions)})
    number = server.keeper.apply(desired, Source(command="test", user="pytest")).number

    def outcome() -> str | None:
        found = (each for each in server.keeper.revisions() if each.number == number)
        return next(found).outcome

    assert until(outcome, START_SECONDS, "an outcome") == "done"


class Callers:
    """Threads that send one request after the other, with pauses, without retries."""

    def __init__(self, client: Client, count: int, body: bytes, pause: float = 0) -> None:
        self.answers, self.errors = 0, list[Exception]()
        self._client, self._body, self._ended = client, body, threading.Event()
        self._pause = pause
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def _call(self) -> None:
        while not self._ended.wait(self._pause * random.random()):
            try:
                self._client.predict("sleepy", self._body)
                self.answers += 1
            except Exception as error:
                self.errors.append(error)

    def wait_for_another(self) -> None:
        """Wait until a call has ended that had not ended before."""
        ended = self.answers + len(self.errors)
        until(lambda: self.answers + len(self.errors) > ended, 10, "another call")

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
def test_a_worker_is_added_while_requests_wait_in_the_queue(server, client):
    desire(server, 1, 2)
    with Callers(client, 8, b"0.5") as callers:  # two batches: one is processed, one waits
        until(lambda: len(client.describe("sleepy").ready_workers) == 2, 90, "a second worker")
    assert callers.errors == []
    texts = [event.text for event in server.keeper.events(0, 0) if event.kind == "scale"]
    assert len(texts) == 1
    assert "ms in the queue" in texts[0]


def test_no_request_fails_while_workers_are_removed(server, client):
    desire(server, 3, 3)
    with Callers(client, 1, b"0", pause=0.3) as callers:
        for workers in (2, 1):
            callers.wait_for_another()
            desire(server, workers, workers)
        callers.wait_for_another()
    assert callers.errors == []
    assert len(client.describe("sleepy").workers) == 1


def test_the_status_has_the_traffic_of_a_version(server, client):
    client.predict("sleepy", b"0.2")

    def traffic():
        (model,) = server.keeper.status().models
        seen = model.versions[0].traffic
        return seen if seen.rate and seen.mean else None

    seen = until(traffic, 10, "traffic")
    assert seen.error_rate == 0
    assert 0 < seen.queue < seen.mean
