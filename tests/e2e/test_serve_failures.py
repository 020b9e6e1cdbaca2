"""A start that fails: one sentence, the right log's end, and nothing left."""

from __future__ import annotations

import os
import socket

import pytest
from serving import archive, serving

RAISES_AT_LOAD = """
class Handler:
    def initialize(self, context):
        raise ValueError("the weights are for another model")

    def handle(self, data, context):
        return data
"""


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


def test_a_model_that_answers_its_sample_wrongly_fails_the_start(tmp_path):
    with serving(tmp_path / "project") as server:
        answer = {"length": 5, "version": "1.0"}
        sample = {"content_type": "x/y", "answer": answer}
        archive(server.project.model_store, "sampled", sample=sample)
        server.start("--port", "0")
        assert server.exit_code() == 1
        assert "answer.length is 4, expected 5" in server.err
        server.assert_nothing_left()


def test_an_archive_that_torchserve_refuses_fails_the_start(tmp_path):
    with serving(tmp_path / "project") as server:
        broken = archive(server.project.model_store, "broken")
        content = broken.read_bytes()
        middle = content.index(b"broken_handler.py") + 40  # in the compressed handler
        broken.write_bytes(content[:middle] + b"\xff" * 20 + content[middle + 20 :])
        server.start("--port", "0")
        assert server.exit_code() == 1
        assert f"vestal: model broken 1.0 was not registered from {broken}: " in server.err
        server.assert_nothing_left()


def test_a_file_that_is_no_archive_fails_the_start_at_once(tmp_path):
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


def test_an_archive_that_is_not_there_is_a_wrong_use(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--models", "echo=gone.mar")
        assert server.exit_code() == 2
        assert "it holds echo-1.0.mar" in server.err
