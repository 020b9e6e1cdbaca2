"""Workers are removed and replaced without a lost request; those that are stuck are found."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import requests
from serving import until

from benchmarks.client_server import Torchserve, torchserve
from benchmarks.scale_down import Row, lost, measure, pack_lone, python_with_stub
from vestal import Client
from vestal.client.tokens import KeyFile
from vestal.fleet.desired import ModelTarget, VersionTarget, Workers
from vestal.fleet.fence import Management, NotIdle, fence
from vestal.fleet.health import find_stuck, replace_idle, replace_stuck
from vestal.fleet.traffic import Window
from vestal.fleet.upkeep import Upkeep

pytestmark = pytest.mark.slow

BLOCKING = """
import threading

def handle(data, context):
    if data is None:
        return None
    if bytes(data[0].get("body") or b"") == b"block":
        threading.Event().wait(600)
    return [b"{}"] * len(data)
"""
READY_SECONDS = 90


@pytest.fixture(scope="module")
def server() -> Iterator[Torchserve]:
    with torchserve() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.executable", python_with_stub(server.folder))
        archives = [
            server.pack("two", workers=2, batch=4, delay=200, code=BLOCKING),
            pack_lone(server),
        ]
        server.start(archives)
        yield server


@pytest.fixture
def client(server: Torchserve) -> Iterator[Client]:
    with server.client() as client:
        yield client
        client.wait_ready("two", timeout=READY_SECONDS)


def management(server: Torchserve) -> Management:
    keys = KeyFile(server.project.key_file)
    return Management(f"http://127.0.0.1:{server.port + 1}", lambda: keys.get("management"))


def fenced(server: Torchserve):
    return fence(management(server), "two", "1.0")


def pids(client: Client, model: str = "two") -> list[int]:
    return [w.pid for w in client.describe(model).ready_workers if w.pid is not None]


class Request:
    """A prediction in a thread of its own, without retries."""

    def __init__(self, server: Torchserve, body: bytes) -> None:
        keys = KeyFile(server.project.key_file)
        url = f"http://127.0.0.1:{server.port}/predictions/two"
        headers = {"Authorization": f"Bearer {keys.get('inference')}"}
        self.status: int | None = None

        def send() -> None:
            self.status = requests.post(url, body, headers=headers, timeout=120).status_code

        self._thread = threading.Thread(target=send)
        self._thread.start()

    def wait(self) -> int | None:
        self._thread.join()
        return self.status


def probe(server: Torchserve):
    def send(seconds: float) -> bool:
        headers = {"Authorization": f"Bearer {management(server).token()}"}
        url = f"{management(server).url}/models/two/1.0?customized=true"
        try:
            requests.get(url, headers=headers, timeout=seconds)
        except requests.Timeout:
            return False
        return True

    return send


def test_requests_wait_in_the_queue_while_the_workers_are_held(server, client):
    with fenced(server):
        request = Request(server, b"")
        until(lambda: client.describe("two").queue_pending >= 2, 10, "the request in the queue")
        states = [psutil.Process(pid).status() for pid in pids(client)]
        assert states == [psutil.STATUS_STOPPED] * 2
    assert request.wait() == 200


def test_workers_with_a_request_are_not_held_and_go_on(server, client):
    request = Request(server, b"")
    refused = 0
    while request.status is None:  # its batch is collected for 0.2 s
        try:
            with fenced(server):
                pass
        except NotIdle:
            refused += 1
    assert request.wait() == 200
    assert refused
    assert psutil.STATUS_STOPPED not in {psutil.Process(pid).status() for pid in pids(client)}


def test_workers_go_on_after_an_error_in_the_block(server, client):
    with pytest.raises(RuntimeError, match="inside"), fenced(server):
        raise RuntimeError("inside")
    assert Request(server, b"").wait() == 200


def test_a_version_whose_worker_was_just_killed_is_not_held(server, client):
    os.kill(pids(client)[0], signal.SIGKILL)
    until(lambda: len(pids(client)) == 1, 30, "the worker's end")
    with pytest.raises(NotIdle, match="not READY"), fenced(server):
        pass


def test_healthy_workers_are_not_stuck(server, client):
    assert find_stuck(probe(server), pids(client), 10) == []


def test_a_stopped_worker_is_found_and_replaced(server, client):
    stopped = pids(client)[1]
    os.kill(stopped, signal.SIGSTOP)
    assert find_stuck(probe(server), pids(client), 4) == [stopped]
    replace_stuck(stopped)
    until(lambda: len(set(pids(client)) - {stopped}) == 2, READY_SECONDS, "two other workers")
    assert find_stuck(probe(server), pids(client), 10) == []


def test_a_handler_that_blocks_is_found_and_only_its_batch_is_lost(server, client):
    blocked = Request(server, b"block")
    # At first, its batch is still being collected.
    stuck = until(lambda: find_stuck(probe(server), pids(client), 4), 60, "a stuck worker")
    assert len(stuck) == 1
    waiting = [Request(server, b"") for _ in range(4)]
    replace_stuck(stuck[0])
    assert blocked.wait() in (500, 507)
    assert [request.wait() for request in waiting] == [200] * 4


def test_a_worker_above_its_memory_limit_is_replaced_while_idle(server, client):
    replaced, other = pids(client)
    request = Request(server, b"")
    while True:
        try:
            replace_idle(management(server), "two", "1.0", replaced)
            break
        except NotIdle:
            time.sleep(0.05)
    assert request.wait() == 200
    until(lambda: len(set(pids(client)) - {replaced}) == 2, READY_SECONDS, "a new worker")
    assert other in pids(client)


def look_after(server: Torchserve, limit: int | None, stuck_seconds: float) -> Iterator[str]:
    """Check the version's workers again and again; yield each repair."""
    repairs: list[str] = []
    upkeep = Upkeep(
        server.client(retries=0, hedge=False),
        management(server),
        lambda *_: Window(),
        lambda kind, text: repairs.append(text),
        stuck_seconds=stuck_seconds,
        check_seconds=0.1,
    )
    target = ModelTarget(
        default="1.0",
        versions={
            "1.0": VersionTarget(
                archive="two-1.0.mar",
                sha256="0" * 64,
                workers=Workers(min=2, max=2),
                memory_limit=limit,
            )
        },
    )
    with server.client() as client:
        while True:
            upkeep.check(target, {"1.0": client.describe("two")})
            if repairs:
                yield repairs.pop(0)
            time.sleep(0.05)


def test_the_keeper_replaces_a_stopped_worker_by_itself(server, client):
    stopped = pids(client)[0]
    os.kill(stopped, signal.SIGSTOP)
    repair = next(look_after(server, None, 4))
    assert repair == f"two 1.0: worker {stopped} responds to nothing; replacing it"
    until(lambda: len(set(pids(client)) - {stopped}) == 2, READY_SECONDS, "two other workers")


def test_the_keeper_replaces_a_large_worker_and_loses_no_request(server, client):
    before = pids(client)
    repairs = look_after(server, 1000, 10)
    request = Request(server, b"")
    repair = next(repairs)
    assert "more than its limit of 0 MB" in repair
    assert request.wait() == 200
    (replaced,) = (pid for pid in before if f"worker {pid} was replaced" in repair)
    until(lambda: len(set(pids(client)) - {replaced}) == 2, READY_SECONDS, "a new worker")


def test_no_lone_request_is_lost_when_workers_are_removed(server, client):
    rows: list[Row] = []
    measure(server, ["fence"], times=8, callers=3, rows=rows)
    assert lost(rows, "fence") == 0
    assert sum(row.kind == "removal" for row in rows) == 8
