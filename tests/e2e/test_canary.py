"""Automatic canaries on a real TorchServe behind a real Envoy, under load."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from serving import START_SECONDS, Serving, archive, serving, until

from vestal.fleet.canary.judging import Rules
from vestal.fleet.canary.requests import CanaryRequest, CanaryStatus
from vestal.fleet.server import Server
from vestal.mar.index import sha256_of
from vestal.project import Project, ReadyFile

pytest.importorskip("envoy", reason="the extra gateway is not installed")

END_SECONDS = 300
EVERY = 5.0
CONFIG = "batchSize: 32\nmaxBatchDelay: 5\nminWorkers: 1\nmaxWorkers: 1\n"
GOOD = """
import json, os, random, time

def handle(data, context):
    if data is None:  # TorchServe initializes a function with this call
        return None
    bodies = [bytes(row.get("body") or b"") for row in data]  # none at the check of the version
    time.sleep(0.05)
    answer = json.dumps({"version": context.manifest["model"]["modelVersion"]}).encode()
    return [answer for _ in data]
"""
FAILS = GOOD.replace(
    "    answer =",
    """    for index in range(len(data)):
        if bodies[index] and random.random() < 0.02:
            context.set_response_status(code=500, phrase="Failed", idx=index)
    answer =""",
)
SLOW = GOOD.replace("0.05", "0.1")
CRASHES = GOOD.replace(
    "    time.sleep",
    """    if bodies[0] and random.random() < 0.1:
        os._exit(1)
    time.sleep""",
)


class Callers:
    """Threads that send one request after the other to the gateway; counts what comes back."""

    def __init__(self, url: str, number: int = 24) -> None:
        self._url, self._ended = url, threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(number)]
        self._lock = threading.Lock()
        self.seen: Counter[str] = Counter()

    def _call(self) -> None:
        with requests.Session() as session:
            while not self._ended.is_set():
                try:
                    response = session.post(self._url, data=b"x", timeout=60)
                    key = response.json()["version"] if response.ok else str(response.status_code)
                except requests.ConnectionError:
                    key = "no connection"
                    self._ended.wait(0.2)
                with self._lock:
                    self.seen[key] += 1

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


SERVING = 'models:\n  echo: {version: "1.0", settle_time: 2s}\ngateway: {port: 0}\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    project = Project(tmp_path_factory.mktemp("canary"))
    archive(project.model_store, "echo", GOOD, "1.0", config=CONFIG)
    (project.root / "serving.yaml").write_text(SERVING)
    with Server(project, port=0) as running:
        yield running


def gateway_of(ready: ReadyFile) -> str:
    assert ready.gateway is not None
    return f"{ready.gateway}/predictions/echo"


def start(server: Server, version: str, handler: str, rules: Rules) -> None:
    store = Path(str(server.ready.model_store))
    packed = archive(store, "echo", handler, version, config=CONFIG)
    server.keeper.start_canary(
        CanaryRequest(
            model="echo",
            version=version,
            archive=packed.name,
            sha256=sha256_of(packed),
            rules=rules,
        )
    )


def ended(server: Server) -> CanaryStatus:
    def find() -> CanaryStatus | None:
        (status,) = server.keeper.canaries()
        return status if status.ended else None

    try:
        status: CanaryStatus = until(find, END_SECONDS, "the end of the canary")
    finally:
        print(server.keeper.canaries())
    print(
        *(f"{entry.time - status.log[0].time:5.1f} s  {entry.text}" for entry in status.log),
        sep="\n",
    )
    return status


RULES = Rules(steps=(50, 100), every=EVERY, max_error_rate=0.005, max_p99_ratio=1.2)
BAD = {
    "fails in 2 %": ("2.1", FAILS, r"\d+ of [\d,]+ requests failed \(\d+\.\d+%\); allowed: 0\.5%"),
    "is twice as slow": ("2.2", SLOW, r"its p99 is \d+ ms, \d\.\d times that of the default"),
    "crashes": ("2.3", CRASHES, r"requests failed \(|none of its workers was READY for"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=pytest.mark.slow if each != "crashes" else ()) for each in BAD],
)
def test_a_bad_canary_is_sent_back_in_its_first_step_with_the_reason(
    server: Server, name: str
) -> None:
    version, handler, reason = BAD[name]
    number = 8 if name == "crashes" else 24  # the others are found in the numbers of requests
    with Callers(gateway_of(server.ready), number) as callers:
        start(server, version, handler, RULES)
        status = ended(server)
        assert status.state == "reverted"
        assert re.search(reason, str(status.reason)), status.reason
        assert "gets 100 %" not in " ".join(entry.text for entry in status.log)
        until(lambda: server.keeper.status().converged, END_SECONDS, "the removal of the canary")
        before = callers.seen[version]
        count = callers.seen["1.0"]
        until(lambda: callers.seen["1.0"] > count + 200, END_SECONDS, "more responses of 1.0")
        assert callers.seen[version] == before
    assert list(server.keeper.desired().models["echo"].versions) == ["1.0"]


@pytest.mark.slow
def test_a_good_canary_reaches_100_percent_and_can_be_rolled_back(server: Server) -> None:
    rules = Rules(steps=(20, 50, 100), every=EVERY, max_error_rate=0.01, max_p99_ratio=1.5)
    with Callers(gateway_of(server.ready)) as callers:
        start(server, "2.0", GOOD, rules)
        status = ended(server)
        assert status.state == "promoted", status.log
        assert server.keeper.desired().models["echo"].default == "2.0"
        count = callers.seen["2.0"]
        until(lambda: callers.seen["2.0"] > count + 200, END_SECONDS, "more responses of 2.0")
    assert set(callers.seen) == {"1.0", "2.0"}, callers.seen
    changes = [each.source.command for each in server.keeper.revisions()]
    assert changes[:4] == ["vestal canary echo 2.0"] * 4


@pytest.mark.slow
def test_a_canary_survives_kill_9_of_vestal_serve(tmp_path: Path) -> None:
    with serving(tmp_path / "project") as server:
        store = server.project.model_store
        for version in ("1.0", "2.0"):
            archive(store, "echo", GOOD, version, config=CONFIG)
        (server.project.root / "serving.yaml").write_text(SERVING)
        server.start("--port", "0")
        server.ready()
        rules = ("--steps", "30,100", "--every", "3s", "--max-p99-ratio", "3")
        vestal(server, "canary", "echo", "2.0", *rules, "--no-wait")
        vestal(server, "canary", "echo", "--pause")
        until(lambda: state(server)["state"] == "paused", START_SECONDS, "the first step")
        server.signal(signal.SIGKILL)
        server.exit_code()
        until(lambda: not server.processes(), START_SECONDS, "the end of TorchServe")
        server.start("--port", "0")
        ready = server.ready()
        until(lambda: state(server)["state"] == "paused", START_SECONDS, "the first step again")
        assert state(server)["weight"] == 30
        vestal(server, "canary", "echo", "--resume")
        with Callers(gateway_of(ready)):
            until(lambda: state(server)["ended"], END_SECONDS, "the end of the canary")
        assert state(server)["state"] == "promoted", state(server)["reason"]


def vestal(server: Serving, *arguments: str) -> str:
    command = [sys.executable, "-m", "vestal", *arguments]
    done = subprocess.run(
        command, cwd=server.project.root, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(server: Serving) -> dict:
    return json.loads(vestal(server, "canary", "echo", "--json"))
