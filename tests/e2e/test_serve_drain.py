"""`vestal serve` is stopped while requests are in progress."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
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
        time.sleep(SECONDS)
    return [b"done"] * len(data)
"""
GATHERING = "batchSize: 8\nmaxBatchDelay: 400\n"


class Caller(threading.Thread):
    """Sends one request; `status` is 0 without a response."""

    def __init__(self, server: Serving, model: str) -> None:
        super().__init__()
        self._url = f"{server.ready().inference}/predictions/{model}"
        self._token, self.status = server.token(), -1

    def run(self) -> None:
        try:
            reply = requests.post(self._url, data=b"x", headers=self._token, timeout=60)
            self.status = reply.status_code
        except requests.RequestException:
            self.status = 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "project") as server:
        store = server.project.model_store
        archive(store, "gathers", SLOW.replace("SECONDS", "0.5"), config=GATHERING)
        archive(store, "slow", SLOW.replace("SECONDS", "4"))
        yield server
        server.assert_nothing_left()


def send(server: Serving, model: str, count: int) -> list[Caller]:
    """Send requests, and return when the server has received all of them."""
    arrived = f'ts_inference_requests_total{{model_name="{model}"'

    def received() -> float:
        page = requests.get(
            f"{server.ready().metrics}/metrics", headers=server.token("management"), timeout=5
        ).text
        lines = [line for line in page.splitlines() if line.startswith(arrived)]
        return sum(float(line.split()[-1]) for line in lines)

    before = received()
    callers = [Caller(server, model) for _ in range(count)]
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
    callers = send(server, "gathers", 20) + send(server, "slow", 2)
    late = Caller(server, "slow")
    callers += send(
        server, "gathers", 3
    )  # TorchServe still collects their batch when the signal is sent
    server.signal(signal.SIGTERM)
    until(
        lambda: not server.project.ready_file.exists(), END_SECONDS, "the removal of the ready file"
    )
    late.start()
    assert statuses([*callers, late]) == [200] * 26
    assert server.exit_code(END_SECONDS) == 0
    assert "all requests were completed" in server.err


def test_at_the_time_limit_requests_are_cut_off_and_counted(server: Serving) -> None:
    server.start("--port", "0", "--drain", "1")
    server.ready()
    callers = send(server, "slow", 4)
    server.signal(signal.SIGINT)
    assert server.exit_code(END_SECONDS) == 0
    assert set(statuses(callers)) <= {0, 500, 503, 507}
    assert "cut off after 1 s: 4 requests (slow 1.0: 4)" in server.err


def test_a_second_signal_or_a_drain_of_0_stops_at_once(server: Serving) -> None:
    server.start("--port", "0")
    server.ready()
    callers = send(server, "slow", 8)  # 32 s
    server.signal(signal.SIGTERM)
    until(lambda: "stopping: waiting" in server.err, END_SECONDS, "the drain")
    server.signal(signal.SIGTERM)
    assert server.exit_code(END_SECONDS) == 0
    assert 200 not in statuses(callers)[1:]
    server.assert_nothing_left()

    server.start("--port", "0", "--drain", "0")
    server.ready()
    callers = send(server, "slow", 2)
    server.signal(signal.SIGTERM)
    assert server.exit_code(END_SECONDS) == 0
    assert 200 not in statuses(callers)
    assert "waiting" not in server.err
