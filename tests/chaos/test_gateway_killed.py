"""Callers of the gateway, while its processes are killed."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest
from serving import START_SECONDS, Serving, archive, serving, until

from vestal import Client
from vestal.configuration.ports import free_ports

pytestmark = [pytest.mark.chaos, pytest.mark.heavy, pytest.mark.slow]


def envoy(server: Serving) -> psutil.Process:
    return until(lambda: server.processes("envoy.json"), START_SECONDS, "Envoy")[0]


def test_no_call_fails_when_any_process_is_killed_and_started_again(tmp_path: Path) -> None:
    [port] = free_ports("127.0.0.1", 1)
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        (server.project.root / "serving.yaml").write_text(
            f'models: {{echo: {{version: "1.0"}}}}\ngateway: {{port: {port}}}\n'
        )
        server.start("--port", "0")
        assert server.ready().gateway == f"http://127.0.0.1:{port}"
        ended, results = threading.Event(), Counter[str]()

        def call() -> None:
            with Client(f"http://127.0.0.1:{port}", timeout=3 * START_SECONDS) as client:
                while not ended.is_set():
                    try:
                        results[client.predict("echo", b"x")["version"]] += 1
                    except Exception as error:
                        results[repr(error)] += 1

        def wait_for_calls() -> None:
            count = results["1.0"]
            until(lambda: results["1.0"] > count + 20, START_SECONDS, f"calls ({results})")

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait_for_calls()
            envoy(server).kill()
            wait_for_calls()
            server.java().kill()
            wait_for_calls()
            server.signal(signal.SIGKILL)
            server.exit_code()
            server.assert_nothing_left()
            server.start("--port", "0")  # as a supervisor does
            wait_for_calls()
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert set(results) == {"1.0"}
        server.close()
        server.assert_nothing_left()
