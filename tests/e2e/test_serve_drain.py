"""`vestal serve` is stopped while requests are in progress."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import requests
from serving import END_SECONDS, START_SECONDS, Serving, archive, serving, until

SLOW = """
import time

def handle(data, context):
    if data is None:  # at load
        return None
    if not context.get_request_header(0, "describe"):
        time.sleep(max(float(row.get("body") or row.get("data")) for row in data))
    return [b"done"] * len(data)
"""
GATHERING = "batchSize: 8\nmaxBatchDelay: 400\n"


class Caller(threading.Thread):
    """Sends one request; `status` is 0 without a response."""

    def __init__(self, server: Serving, model: str, seconds: float) -> None:
        super().__init__()
        self._body = str(seconds)
        self._url = f"{server.ready().inference}/predictions/{model}"
        self._token, self.status = server.token(), -1

    def run(self) -> None:
        try:
            reply = requests.post(self._url, data=self._body, headers=self._token, timeout=60)
            self.status = reply.status_code
        except requests.RequestException:
            self.status = 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "project") as server:
        store = server.project.model_store
        archive(store, "gathers", SLOW, config=GATHERING)
        archive(store, "slow", SLOW)
        yield server
        server.assert_nothing_left()


def send(server: Serving, model: str, count: int, seconds: float) -> list[Caller]:
    """Send requests, and return when the server has received all of them."""
    arrived = f'ts_inference_requests_total{{model_name="{model}"'

    def received() -> float:
        page = requests.get(
            f"{server.ready().metrics}/metrics", headers=server.token("management"), timeout=5
        ).text
        lines = [line for line in page.splitlines() if line.startswith(arrived)]
        return sum(float(line.split()[-1]) for line in lines)

    before = received()
    callers = [Caller(server, model, seconds) for _ in range(count)]
    for caller in callers:
        caller.start()
    until(lambda: received() >= before + count, START_SECONDS, "the requests")
    return callers


def statuses(callers: list[Caller]) -> list[int]:
    for caller in callers:
        caller.join(60)
    return [caller.status for caller in callers]


def test_requests_in_progress_and_new_ones_are_completed(server: Serving) -> None:
    server.start("--port", "0")
    server.ready()
    callers = send(server, "gathers", 20, 0.5) + send(server, "slow", 1, 4)
    late = Caller(server, "slow", 0)
    # TorchServe still collects their batch when the signal is sent.
    callers += send(server, "gathers", 3, 0.5)
    server.signal(signal.SIGTERM)
    until(
        lambda: not server.project.ready_file.exists(), END_SECONDS, "the removal of the ready file"
    )
    late.start()
    assert statuses([*callers, late]) == [200] * 25
    assert server.exit_code(END_SECONDS) == 0
    assert "all requests were completed" in server.err


@pytest.mark.slow
def test_at_the_time_limit_requests_are_cut_off_and_counted(server: Serving) -> None:
    server.start("--port", "0", "--drain", "1", "slow")
    server.ready()
    callers = send(server, "slow", 4, 10)
    server.signal(signal.SIGINT)
    assert server.exit_code(END_SECONDS) == 0
    assert set(statuses(callers)) <= {0, 500, 503, 507}
    assert "cut off after 1 s: 4 requests (slow 1.0: 4)" in server.err


@pytest.mark.slow
def test_after_a_second_signal_a_server_starts_again_with_the_same_paths(
    server: Serving, tmp_path: Path
) -> None:
    other = tmp_path / "ready"
    server.start("--port", "0", "slow", "--json", "--ready-file", str(other))
    first = server.ready()
    assert until(other.exists, END_SECONDS, "the other ready file")
    callers = send(server, "slow", 2, 60)
    server.signal(signal.SIGTERM)
    until(lambda: "stopping: waiting" in server.err, END_SECONDS, "the drain")
    server.signal(signal.SIGTERM)
    assert server.exit_code(END_SECONDS) == 0
    assert 200 not in statuses(callers)
    assert json.loads(server.out) == asdict(first)
    server.assert_nothing_left()
    assert not other.exists()

    server.start("--port", "0", "slow", "--drain", "0")
    second = server.ready()
    assert (second.key_file, second.models) == (first.key_file, first.models)
    logs = sorted(log.name for log in server.project.logs.glob("ts_log*"))
    assert logs == ["ts_log.1.log", "ts_log.log"]
    callers = send(server, "slow", 2, 60)
    server.signal(signal.SIGTERM)  # with a drain of 0, it stops at once
    assert server.exit_code(END_SECONDS) == 0
    assert 200 not in statuses(callers)
    assert "waiting" not in server.err
