"""Callers of the gateway, while its processes are killed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests
from serving import START_SECONDS, Serving, archive, serving, until

from vestal import Client
from vestal.configuration.ports import free_ports

pytestmark = [pytest.mark.chaos, pytest.mark.heavy, pytest.mark.slow]

GRACE_SECONDS = 5
"""A call succeeds if its deadline is at least this long after the return of the gateway."""
TIMEOUTS = (1, 2, 5, 10, 20, 40)  # of the calls; an outage lasts for some seconds


@dataclass(frozen=True)
class Call:
    begun: float
    deadline: float
    error: str | None


class Callers:
    """Clients with timeouts of different lengths, which call without pause."""

    def __init__(self, url: str) -> None:
        self.calls: list[Call] = []
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=[url, timeout]) for timeout in TIMEOUTS
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, url: str, timeout: float) -> None:
        with Client(url, timeout=timeout) as client:
            while not self._ended.is_set():
                begun, error = time.monotonic(), None
                try:
                    assert client.predict("echo", b"x")["version"] == "1.0"
                except Exception as problem:
                    error = repr(problem)
                self.calls.append(Call(begun, begun + timeout, error))

    def wait_for_successes(self) -> None:
        count = len(self.calls)
        until(
            lambda: sum(each.error is None for each in self.calls[count:]) > 20,
            START_SECONDS,
            "calls that succeed",
        )

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def envoy(server: Serving) -> psutil.Process:
    return until(lambda: server.processes("envoy.json"), START_SECONDS, "Envoy")[0]


def returned(url: str) -> float:
    """Wait until a request without retries succeeds."""

    def succeeds() -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.post(f"{url}/predictions/echo", b"x", timeout=2).ok
        return False

    until(succeeds, START_SECONDS, "the return of the gateway")
    return time.monotonic()


def test_no_call_with_a_deadline_after_the_return_fails_when_a_process_is_killed(
    tmp_path: Path,
) -> None:
    [port] = free_ports("127.0.0.1", 1)
    url = f"http://127.0.0.1:{port}"
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        (server.project.root / "serving.yaml").write_text(
            f'models: {{echo: {{version: "1.0"}}}}\ngateway: {{port: {port}}}\n'
        )
        server.start("--port", "0")
        assert server.ready().gateway == url
        outages: list[tuple[float, float]] = []
        callers = Callers(url)
        try:
            callers.wait_for_successes()
            for process in (envoy(server), server.java()):
                killed = time.monotonic()
                process.kill()
                process.wait(START_SECONDS)
                outages.append((killed, returned(url)))
                callers.wait_for_successes()
            killed = time.monotonic()
            server.signal(signal.SIGKILL)
            server.exit_code()
            server.assert_nothing_left()
            server.start("--port", "0")  # as a supervisor does
            outages.append((killed, returned(url)))
            callers.wait_for_successes()
        finally:
            callers.end()
        failed = [call for call in callers.calls if call.error]
        unexplained = [
            call
            for call in failed
            if not any(
                call.begun <= end and begin <= call.deadline < end + GRACE_SECONDS
                for begin, end in outages
            )
        ]
        assert unexplained == []
        assert failed, f"no outage was longer than {TIMEOUTS[0]} s: {outages}"
        server.close()
        server.assert_nothing_left()
