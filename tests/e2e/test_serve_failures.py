"""A start that fails: one sentence, the end of the relevant log, and complete cleanup."""

from __future__ import annotations

import os
import socket

import pytest
from serving import RAISES_AT_LOAD, archive, damaged_archive, serving

from vestal.configuration.ports import free_ports


def test_a_model_that_does_not_load_fails_the_start(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "broken", RAISES_AT_LOAD)
        server.start("--port", "0")
        assert server.exit_code() == 1
        cause = "ValueError: the weights are for another model"
        assert f"vestal: model broken 1.0 did not load: {cause}\n" in server.err
        assert server.err.splitlines()[-1] == f"    {cause}"
        assert server.err.count("did not load") == 1
        server.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("refused", [True, False])
def test_with_strict_one_archive_that_fails_ends_the_start(tmp_path, refused):
    with serving(tmp_path / "project") as server:
        store = server.project.model_store
        archive(store, "echo")
        if refused:
            damaged = damaged_archive(store, "broken")
            reason = f"was not registered from {damaged}: "
        else:
            archive(store, "broken", RAISES_AT_LOAD)
            reason = "did not load: ValueError: the weights are for another model"
        server.start("--port", "0", "--strict")
        assert server.exit_code() == 1
        assert f"vestal: model broken 1.0 {reason}" in server.err
        server.assert_nothing_left()


def test_a_file_that_is_not_an_archive_fails_the_start_at_once(tmp_path):
    with serving(tmp_path / "project") as server:
        server.project.model_store.mkdir()
        (server.project.model_store / "half.mar").write_bytes(b"PK\3\4 and no more")
        server.start("--port", "0")
        assert server.exit_code() == 1
        message = "half.mar is not a model archive (File is not a zip file)"
        assert message in server.err
        archive(server.project.model_store, "echo")  # with --strict, it is not served either
        server.start("--port", "0", "--strict")
        assert server.exit_code() == 1
        assert message in server.err


def test_a_port_in_use_fails_the_start_at_once(tmp_path):
    with serving(tmp_path / "project") as server, socket.socket() as listener:
        archive(server.project.model_store, "echo")
        [port] = free_ports("127.0.0.1", 1)  # so the ports before it are probably free, too
        listener.bind(("127.0.0.1", port))
        listener.listen()
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
