"""A start that fails: one sentence, the end of the relevant log, and complete cleanup."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from serving import END_SECONDS, archive, serving

RAISES_AT_LOAD = """
class Handler:
    def initialize(self, context):
        raise ValueError("the weights are for another model")

    def handle(self, data, context):
        return data
"""
WRONG_SAMPLE = {"content_type": "x/y", "answer": {"length": 5, "version": "1.0"}}


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (RAISES_AT_LOAD, "ValueError: the weights are for another model"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
    ids=["load", "import"],
)
def test_a_model_that_does_not_load_fails_the_start(tmp_path, handler, cause):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "broken", handler)
        server.start("--port", "0")
        assert server.exit_code() == 1
        assert f"vestal: model broken 1.0 did not load: {cause}\n" in server.err
        assert server.err.splitlines()[-1] == f"    {cause}"
        server.assert_nothing_left()


def test_a_model_that_predicts_its_sample_incorrectly_fails_the_start(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "sampled", sample=WRONG_SAMPLE)
        server.start("--port", "0")
        assert server.exit_code() == 1
        assert "answer.length is 4, expected 5" in server.err
        server.assert_nothing_left()


def damaged_archive(store: Path, name: str) -> Path:
    """Create an archive whose handler cannot be unpacked."""
    broken = archive(store, name)
    content = broken.read_bytes()
    middle = content.index(f"{name}_handler.py".encode()) + 40  # in the compressed handler
    broken.write_bytes(content[:middle] + b"\xff" * 20 + content[middle + 20 :])
    return broken


def test_an_archive_that_torchserve_refuses_fails_the_start(tmp_path):
    with serving(tmp_path / "project") as server:
        broken = damaged_archive(server.project.model_store, "broken")
        server.start("--port", "0")
        assert server.exit_code() == 1
        assert f"vestal: model broken 1.0 was not registered from {broken}: " in server.err
        server.assert_nothing_left()


def test_the_other_archives_are_served_and_every_failure_is_reported(tmp_path):
    with serving(tmp_path / "project") as server:
        store = server.project.model_store
        archive(store, "echo")
        archive(store, "twice", sample=WRONG_SAMPLE)  # the first version, and so the default
        archive(store, "twice", version="2.0")
        archive(store, "broken", RAISES_AT_LOAD)
        archive(store, "sampled", sample={"content_type": "x/y"})
        damaged_archive(store, "damaged")
        (store / "half.mar").write_bytes(b"PK\3\4 and no more")
        names = ("half", "damaged-1.0", "broken-1.0", "sampled-1.0", "twice-1.0")
        reasons = {
            "half.mar": "half.mar is not a model archive (File is not a zip file)",
            "damaged-1.0.mar": "model damaged 1.0 was not registered",
            "broken-1.0.mar": "model broken 1.0 did not load: ValueError: the weights are for",
            "sampled-1.0.mar": "sample/sample.json in ",
            "twice-1.0.mar": "answer.length is 4, expected 5",
        }
        served = [f"{name}.mar" for name in (*names, "twice-2.0", "echo-1.0")]
        server.start("--port", "0", "--json", "--models", *served)
        ready = server.ready()
        assert [(each["name"], each["version"], each["default"]) for each in ready.models] == [
            ("twice", "2.0", True),
            ("echo", "1.0", True),
        ]
        failed = {each["archive"]: each["reason"] for each in ready.failed}
        assert failed.keys() == reasons.keys()
        for name, reason in reasons.items():
            assert reason in failed[name]
            assert f"{name} is not served: " in server.err
        assert len(server.processes("model_service_worker")) == 2
        server.signal(signal.SIGTERM)
        assert server.exit_code(END_SECONDS) == 0
        assert json.loads(server.out)["failed"] == ready.failed
        server.assert_nothing_left()

        server.start("--port", "0", "--strict")
        assert server.exit_code() == 1
        assert "half.mar is not a model archive" in server.err
        (store / "half.mar").unlink()
        for name in ("damaged", "sampled"):
            (store / f"{name}-1.0.mar").unlink()
        server.start("--port", "0", "--strict")
        assert server.exit_code() == 1
        assert "vestal: model broken 1.0 did not load" in server.err
        server.assert_nothing_left()


def test_a_file_that_is_not_an_archive_fails_the_start_at_once(tmp_path):
    with serving(tmp_path / "project") as server:
        server.project.model_store.mkdir()
        (server.project.model_store / "half.mar").write_bytes(b"PK\3\4 and no more")
        server.start("--port", "0")
        assert server.exit_code() == 1
        assert "half.mar is not a model archive (File is not a zip file)" in server.err


def test_a_port_in_use_fails_the_start_at_once(tmp_path):
    with serving(tmp_path / "project") as server, socket.socket() as listener:
        archive(server.project.model_store, "echo")
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        server.start("--port", str(port - 2))
        assert server.exit_code() == 1
        message = f"port {port} (metrics_address) is in use by pid {os.getpid()}"
        assert message in server.err


def test_a_missing_archive_is_a_usage_error(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--models", "echo=gone.mar")
        assert server.exit_code() == 2
        assert "model_store holds echo-1.0.mar" in server.err
