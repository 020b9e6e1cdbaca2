"""`vestal serve` with a real TorchServe."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests
from serving import (
    ECHO,
    END_SECONDS,
    RAISES_AT_LOAD,
    START_SECONDS,
    archive,
    damaged_archive,
    serving,
    until,
)

FAILING = {
    "half.mar": "half.mar is not a model archive (File is not a zip file)",
    "damaged-1.0.mar": "model damaged 1.0 was not registered",
    "raises-1.0.mar": "model raises 1.0 did not load: ValueError: the weights are for",
    "imports-1.0.mar": "model imports 1.0 did not load: ModuleNotFoundError: No module named 'no",
    "unreadable-1.0.mar": "sample/sample.json in ",
    "echo-0.9.mar": "answer.length is 4, expected 5",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two versions of one model and archives that cannot be served, on free ports."""
    root = tmp_path_factory.mktemp("served") / "project"
    kind = {"content_type": "x/y"}
    with serving(root) as server:
        store = server.project.model_store
        # The first version, and so the default until its sample fails.
        wrong = {"length": 5, "version": "0.9"}
        archive(store, "echo", version="0.9", sample={**kind, "answer": wrong})
        archive(store, "echo")
        right = {"length": 4.00001, "version": "2.0"}
        archive(store, "echo", version="2.0", sample={**kind, "answer": right})
        archive(store, "raises", RAISES_AT_LOAD)
        archive(store, "imports", "import no_such_package")
        archive(store, "unreadable", sample=kind)
        damaged_archive(store, "damaged")
        (store / "half.mar").write_bytes(b"PK\3\4 and no more")
        server.start("--port", "0", "--models", *FAILING, "echo-1.0.mar", "echo=echo-2.0.mar")
        server.ready()
        yield server
        server.signal(signal.SIGTERM)
        assert server.exit_code(END_SECONDS) == 0
        server.assert_nothing_left()


def post(server, path, body=b"abc", **headers):
    ready = server.ready()
    return requests.post(
        f"{ready.inference}/predictions/{path}",
        data=body,
        headers={**server.token(), **headers},
        timeout=30,
    )


def manage(server, method, path, **parameters):
    return requests.request(
        method,
        f"{server.ready().management}{path}",
        params=parameters,
        headers=server.token("management"),
        timeout=30,
    )


def test_the_servers_own_process_does_not_load_torch(server):
    """It would need memory, and a second of the cores during the first swap."""
    assert "libtorch" not in Path(f"/proc/{server.pid}/maps").read_text()


def test_idle_openmp_threads_of_workers_sleep(server):
    """TorchServe passes its environment on, and OpenMP reads it when a worker imports torch."""
    workers = [each["pid"] for each in manage(server, "GET", "/models/echo").json()[0]["workers"]]
    assert workers
    for pid in workers:
        assert psutil.Process(pid).environ()["OMP_WAIT_POLICY"] == "passive"


def test_the_ready_file_has_addresses_and_models(server):
    ready = server.ready()
    assert ready.pid == server.pid
    assert ready.key_file == str(server.project.key_file)
    assert sorted(ready.models, key=lambda each: (each["name"], each["version"])) == [
        {"name": "echo", "version": "1.0", "default": True},
        {"name": "echo", "version": "2.0", "default": False},
    ]
    assert stat.S_IMODE(server.project.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.project.key_file.stat().st_mode) == 0o600


def test_archives_that_cannot_be_served_are_reported(server):
    failed = {each["archive"]: each["reason"] for each in server.ready().failed}
    assert failed.keys() == FAILING.keys()
    for name, reason in FAILING.items():
        assert reason in failed[name]
        assert f"{name} is not served: " in server.err
    assert len(server.processes("model_service_worker")) == 2


def test_every_version_predicts_and_the_first_is_the_default(server):
    assert post(server, "echo").json() == {"length": 3, "version": "1.0"}
    assert post(server, "echo/2.0").json() == {"length": 3, "version": "2.0"}


def test_the_printed_curl_command_works(server):
    line = next(line for line in server.out.splitlines() if "curl" in line)
    (server.project.root / "FILE").write_bytes(b"pixels")
    answer = subprocess.run(
        ["sh", "-c", line.replace("curl", "curl --silent")],
        cwd=server.project.root,
        capture_output=True,
        check=True,
    )
    assert json.loads(answer.stdout) == {"length": 6, "version": "1.0"}


def test_a_call_without_a_token_is_refused(server):
    assert requests.get(f"{server.ready().management}/models", timeout=30).status_code == 400


def test_only_files_of_the_store_can_be_registered(server):
    url = f"file://{server.project.model_store}/echo-1.0.mar"
    refused = manage(server, "POST", "/models", url=url, model_name="other")
    assert refused.status_code == 404
    assert "does not match any allowed URL" in refused.json()["message"]
    assert manage(server, "POST", "/models", url="echo-1.0.mar", model_name="o").status_code == 200
    assert manage(server, "DELETE", "/models/o").status_code == 200
    assert (server.project.model_store / "echo-1.0.mar").exists()


def test_the_ready_file_lists_later_changes(server):
    def listed():
        return [(e["name"], e["version"], e["default"]) for e in server.ready().models]

    before = [("echo", "1.0", True), ("echo", "2.0", False)]
    until(lambda: listed() == before, END_SECONDS, "the models of earlier tests")
    parameters = {"url": "echo-1.0.mar", "model_name": "later"}
    assert manage(server, "POST", "/models", **parameters).status_code == 200
    until(lambda: listed() == [*before, ("later", "1.0", True)], END_SECONDS, "the new model")
    assert manage(server, "PUT", "/models/later", min_worker="0").ok
    assert manage(server, "DELETE", "/models/later").status_code == 200
    until(lambda: listed() == before, END_SECONDS, "its removal")
    assert manage(server, "PUT", "/models/echo/2.0/set-default").ok
    swapped = {("echo", "1.0", False), ("echo", "2.0", True)}
    until(lambda: set(listed()) == swapped, END_SECONDS, "the new default")
    assert manage(server, "PUT", "/models/echo/1.0/set-default").ok
    until(lambda: set(listed()) == set(before), END_SECONDS, "the first default")


def test_a_body_of_twenty_megabytes_is_the_limit(server):
    assert post(server, "echo", b"0" * 19_999_999).json()["length"] == 19_999_999
    # TorchServe may close the connection before the body is sent completely.
    with contextlib.suppress(requests.ConnectionError):
        assert post(server, "echo", b"0" * 20_000_001).status_code == 413


def test_requests_leave_no_lines_in_the_logs(server):
    def lines():
        logs = sorted(server.project.logs.glob("*.log"))
        return sum(len(log.read_bytes().splitlines()) for log in logs)

    post(server, "echo")
    before = lines()
    for _ in range(50):
        post(server, "echo")
        manage(server, "GET", "/models/echo")
    assert lines() == before


def test_prometheus_has_the_metrics_of_torchserve_and_the_handlers(server):
    metrics = requests.get(
        f"{server.ready().metrics}/metrics", headers=server.token("management"), timeout=30
    ).text
    assert re.search(r'ts_inference_requests_total\{model_name="echo",.*\} \d+', metrics)
    assert "# TYPE vestal_forward_seconds histogram" in metrics
    assert "# TYPE vestal_failures_total counter" in metrics


def test_a_second_server_in_the_project_is_refused(server):
    second = subprocess.run(
        [sys.executable, "-m", "vestal", "serve", "--port", "0"],
        cwd=server.project.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    running = f"is already running in this project (pid {server.pid}, {server.ready().inference})"
    assert running in second.stderr
    assert post(server, "echo").ok


@pytest.mark.slow
def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path):
    with serving(tmp_path / "project") as server:
        # It loads for longer than the command below takes, however busy the machine is.
        archive(server.project.model_store, "echo", f"import time; time.sleep(100)\n{ECHO}")
        server.start("--port", "0")
        until(lambda: server.processes("model_service_worker"), START_SECONDS, "a worker")
        done = subprocess.run(
            [sys.executable, "-m", "vestal", "predict", "echo", "--text", "x", "--timeout", "0.1"],
            cwd=server.project.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "the server of this project is starting (since " in done.stderr
        assert done.returncode == 1
        server.signal(signal.SIGINT)
        assert server.exit_code(END_SECONDS) == 0
        server.assert_nothing_left()
