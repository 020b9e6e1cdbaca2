"""kill -9 after every step of an apply: what is desired runs in the end, and nothing else.

The steps are those of the keeper's events: a swap of one model while another one is scaled.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from serving import ECHO, START_SECONDS, Serving, archive, serving, until

from vestal import Client, ClientError
from vestal.fleet.keeper_client import KeeperClient
from vestal.fleet.status import Event, RevisionSummary

VERSIONS = ("1.0", "2.0", "3.0")
SERVING = """\
models:
  swapped:
    version: "{version}"
    settle_time: 1s
  scaled:
    version: "1.0"
    workers: {workers}
"""
VICTIMS = ("serve", "torchserve", "worker", "apply")


class Walk:
    """A server with two models, and one `vestal apply` after the other."""

    def __init__(self, server: Serving) -> None:
        self._server = server
        # Of three versions, the next one never served before the present one: it must settle.
        self._states = zip(cycle(("2.0", "3.0", "1.0")), cycle((2, 1)), strict=False)
        store = server.project.model_store
        for version in VERSIONS:
            answer = {"length": 4, "version": version}
            archive(store, "swapped", ECHO, version, {"content_type": "x/y", "answer": answer})
        archive(store, "scaled")
        self._write("1.0", 1)
        server.start("--port", "0")
        server.ready()

    def _write(self, version: str, workers: int) -> None:
        self._version, self._workers = version, workers
        text = SERVING.format(version=version, workers=workers)
        (self._server.project.root / "serving.yaml").write_text(text)

    def begin(self) -> Iterator[Event]:
        """Run `vestal apply` for the next state; yield the events of its revision to the end."""
        self._write(*next(self._states))
        self._keeper = KeeperClient(self._server.project)
        number = self._keeper.revisions()[0].number + 1
        with self._file.open("wb") as output:
            self._apply = subprocess.Popen(
                [sys.executable, "-m", "vestal", "apply"],
                cwd=self._server.project.root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        for event in self._keeper.events(0, START_SECONDS):
            if event.revision == number:
                yield event
                if event.kind in ("converged", "rejected"):
                    return

    def steps(self) -> list[str]:
        """Apply without a kill; return the names of the steps, in the order of their ends."""
        done = [each.step for each in self.begin() if each.kind == "done" and each.step]
        self._check("nothing was killed")
        return list(dict.fromkeys(done))

    def check_after(self, step: str, victim: str) -> None:
        """Kill the victim when a step has ended, and check what runs in the end."""
        where = f"{victim} was killed after {step}"
        events = self.begin()
        moment = next((e for e in events if (e.kind, e.step) == ("done", step)), None)
        assert moment is not None, f"there was no {step}\n{self._server.err}"
        self._kill(victim, moment)
        self._check(where, may_fail=victim == "apply")

    def _kill(self, victim: str, event: Event) -> None:
        if victim == "serve":
            self._server.signal(signal.SIGKILL)
            self._server.exit_code()
            self._server.start("--port", "0")  # as a supervisor does
        elif victim == "torchserve":
            self._server.java().kill()
        elif victim == "worker":
            os.kill(self._worker_of(event), signal.SIGKILL)
        else:
            self._apply.kill()

    def _worker_of(self, event: Event) -> int:
        """A worker of the event's version, or of the default version if it was removed."""
        with self._client() as client:
            assert event.model is not None
            versions = {each.version: each for each in client.versions(event.model)}
            found = versions.get(event.version or "") or client.describe(event.model)
        pid = found.workers[0].pid
        assert pid is not None
        return pid

    def _check(self, where: str, *, may_fail: bool = False) -> None:
        """Check that the command and the keeper succeed, and that only what is desired runs."""
        code = self._apply.wait(START_SECONDS)
        assert may_fail or code == 0, f"{where}: {self._file.read_text()}\n{self._server.err}"
        until(lambda: self._outcome().outcome, START_SECONDS, f"{where}: an outcome")
        assert self._outcome().outcome == "done", f"{where}: {self._outcome()}\n{self._server.err}"
        expected = {("swapped", self._version, True, 1), ("scaled", "1.0", True, self._workers)}
        until(lambda: self._running() == expected, START_SECONDS, f"{where}: {expected}")
        with self._client() as client:
            assert client.predict("swapped", b"four")["version"] == self._version, where
            assert client.predict("scaled", b"four")["version"] == "1.0", where

    def _outcome(self) -> RevisionSummary:
        self._server.ready()
        return KeeperClient(self._server.project).revisions()[0]

    def _running(self) -> set[tuple[str, str, bool, int]]:
        """Model, version, whether it is the default, and its READY workers."""
        try:
            with self._client() as client:
                found = {(i.name, i.version): i.default for i in client.models()}
                ready = {key: len(client.describe(*key).ready_workers) for key in found}
        except ClientError:  # TorchServe ends, or a version is removed at this moment
            return set()
        return {(*key, found[key], ready[key]) for key in found}

    def _client(self) -> Client:
        ready = self._server.ready()
        return Client(ready.inference, management=ready.management, key_file=ready.key_file)

    @property
    def _file(self) -> Path:
        return self._server.project.root / "apply.txt"


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    with serving(tmp_path / "project") as server:
        yield Walk(server)
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        server.assert_nothing_left()


@pytest.mark.slow
def test_kill_9_of_everything_after_every_step_of_an_apply(walk: Walk) -> None:
    steps = walk.steps()
    assert len(steps) >= 6
    for step in steps:
        for victim in VICTIMS:  # `serve` first: it counts how often TorchServe ends
            walk.check_after(step, victim)
