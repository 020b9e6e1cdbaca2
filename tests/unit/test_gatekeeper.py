"""The gateway follows what is desired: a real Envoy in front of a small HTTP server."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from keeper_fake import desired
from serving import until

from vestal.configuration.ports import free_ports
from vestal.errors import VestalError
from vestal.fleet.actual import Actual, ModelState, VersionState
from vestal.fleet.desired import Canary, Desired
from vestal.fleet.gatekeeper import Gatekeeper, Surroundings
from vestal.gateway.settings import Gateway, Tls

pytestmark = pytest.mark.heavy


class Upstream(BaseHTTPRequestHandler):
    """Answers with the path of the request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.path.encode()
        if "slow" in self.path:
            time.sleep(2)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Gatekept:
    """A gatekeeper and what it has reported."""

    def __init__(self, folder: Path, upstream: tuple[str, int], lock: int) -> None:
        self.events: list[str] = []
        around = Surroundings(upstream, upstream, 1_000_000, None, folder, lock)
        self.keeper = Gatekeeper(around, lambda _, text: self.events.append(text))
        [self.port] = free_ports("127.0.0.1", 1)
        self.start = Gateway(port=self.port)

    def desire(self, canary: float | None = None, **settings: Any) -> None:
        """Desire settings that differ from those at the start, while both versions are READY."""
        mnist = desired(mnist=["1.0", "2.0"]).models["mnist"]
        if canary is not None:
            share = Canary(version="2.0", weight=canary)
            mnist = mnist.model_copy(update={"canary": share})
        gateway = self.start.model_copy(update=settings)
        self.keeper.observe(Desired(models={"mnist": mnist}, gateway=gateway), self.actual)

    @property
    def actual(self) -> Actual:
        state = VersionState("m.mar", "a" * 64, 1, ready=1, verified=True)
        model = ModelState(default="1.0", versions={"1.0": state, "2.0": state})
        return Actual(models={"mnist": model})

    def get(self, path: str = "/predictions/mnist", port: int | None = None) -> str:
        response = requests.get(f"http://127.0.0.1:{port or self.port}{path}", timeout=10)
        return response.text if response.status_code == 200 else str(response.status_code)

    @property
    def problem(self) -> str:
        return self.keeper.problem or ""

    def process(self) -> psutil.Process:
        assert self.keeper._process is not None
        return psutil.Process(self.keeper._process.pid)


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[str, int]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield "127.0.0.1", server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def gatekept(tmp_path: Path, upstream: tuple[str, int]) -> Iterator[Gatekept]:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    running = Gatekept(tmp_path, upstream, lock)
    running.keeper.start(Desired(gateway=running.start))
    try:
        running.desire()
        yield running
    finally:
        running.keeper.stop()
        os.close(lock)


def test_a_change_is_in_effect_when_it_has_been_made(gatekept: Gatekept) -> None:
    assert gatekept.get() == "/predictions/mnist"
    pid = gatekept.process().pid
    for weight in (100, 0, 100):
        gatekept.desire(weight)
        expected = "/predictions/mnist/2.0" if weight else "/predictions/mnist"
        assert {gatekept.get() for _ in range(20)} == {expected}
    assert gatekept.process().pid == pid


def test_a_version_that_is_withdrawn_gets_nothing_until_it_is_restored(
    gatekept: Gatekept,
) -> None:
    gatekept.desire(100)
    gatekept.keeper.withdraw("mnist", "2.0")
    assert gatekept.get() == "/predictions/mnist"
    assert gatekept.get("/predictions/mnist/2.0") == "404"
    gatekept.desire(100)  # it is removed because its archive has changed
    assert gatekept.get() == "/predictions/mnist"
    gatekept.keeper.restore("mnist", "2.0")
    gatekept.desire(100)
    assert gatekept.get() == "/predictions/mnist/2.0"


def test_a_change_that_envoy_refuses_is_reported_and_can_be_taken_back(
    gatekept: Gatekept, tmp_path: Path
) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("no certificate")
    files = Tls(certificate=str(tmp_path / "cert"), key=str(tmp_path / "key"))
    gatekept.desire(tls=files)
    gatekept.desire(tls=files)
    assert gatekept.problem.startswith(
        "the gateway's configuration is invalid: Failed to load certificate chain"
    )
    assert len(gatekept.events) == 1
    assert gatekept.get() == "/predictions/mnist"  # with the previous configuration
    gatekept.desire()
    assert gatekept.problem == ""


def test_a_response_that_does_not_come_is_given_up(gatekept: Gatekept) -> None:
    gatekept.desire(response_timeout=0.3)
    response = requests.get(f"http://127.0.0.1:{gatekept.port}/predictions/mnist?slow", timeout=10)
    assert (response.status_code, response.json()["type"]) == (504, "GatewayTimeout")


def test_a_port_that_is_in_use_leaves_the_gateway_where_it_is(gatekept: Gatekept) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        gatekept.desire(port=taken)
        assert f"port {taken}, of the gateway is in use by pid {os.getpid()}" in gatekept.problem
        assert gatekept.get() == "/predictions/mnist"
    gatekept.desire(port=taken)
    assert gatekept.get(port=taken) == "/predictions/mnist"
    assert gatekept.problem == ""


def test_a_gateway_that_is_not_desired_any_more_ends(gatekept: Gatekept) -> None:
    process, keeper = gatekept.process(), gatekept.keeper
    before = keeper.status
    assert before is not None
    files = Path(str(before.files))
    assert (files.stat().st_mode & 0o777, (files / "envoy.json").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    keeper.observe(Desired(), gatekept.actual)
    assert not process.is_running()
    assert not files.exists()
    assert gatekept.keeper.status is None
    assert gatekept.keeper.metrics() == ""
    gatekept.desire()
    assert gatekept.get() == "/predictions/mnist"


def test_envoy_is_started_again_again_and_again(gatekept: Gatekept) -> None:
    for count in (1, 2):
        gatekept.process().kill()
        until(lambda: _restarts(gatekept) == count, 20, "a restart")  # noqa: B023
        until(lambda: _answers(gatekept), 20, "an answer")
    assert gatekept.events == ["Envoy ended (killed by SIGKILL); starting it again"] * 2


def _restarts(gatekept: Gatekept) -> int:
    status = gatekept.keeper.status
    return status.restarts if status and status.running else 0


def _answers(gatekept: Gatekept) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return gatekept.get() == "/predictions/mnist"
    return False


def test_at_the_start_a_port_in_use_is_an_error(tmp_path: Path, upstream: tuple[str, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        gatekept = Gatekept(tmp_path, upstream, other.fileno())
        taken = gatekept.start.model_copy(update={"port": other.getsockname()[1]})
        with pytest.raises(
            VestalError, match="Choose another `address` or `port` under `gateway:`"
        ):
            gatekept.keeper.start(Desired(gateway=taken))
