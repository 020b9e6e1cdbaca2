"""If `vestal serve`, its guardian or its TorchServe is killed, the others end too."""

from __future__ import annotations

import signal

import psutil
import pytest
from serving import END_SECONDS, START_SECONDS, archive, serving, until


@pytest.mark.slow
def test_kill_9_of_the_command(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--port", "0")
        server.ready()
        assert len(server.processes()) == 3  # guardian, Java, worker
        server.signal(signal.SIGKILL)
        server.exit_code()
        server.assert_nothing_left()


@pytest.mark.slow
def test_kill_9_of_the_command_while_a_worker_imports(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--port", "0")
        until(lambda: server.processes("model_service_worker"), START_SECONDS, "a worker")
        server.signal(signal.SIGKILL)
        server.exit_code()
        # It waits for the guardian, which still cleans up.
        server.start("--port", "0")
        server.ready()
        server.signal(signal.SIGTERM)
        assert server.exit_code(END_SECONDS) == 0
        server.assert_nothing_left()


def test_a_killed_worker_is_replaced_and_with_a_killed_torchserve_the_command_ends(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--port", "0")
        server.ready()
        [worker] = server.processes("model_service_worker")
        worker.kill()

        def another() -> list[psutil.Process]:
            return [each for each in server.processes("model_service_worker") if each != worker]

        until(another, START_SECONDS, "another worker")
        server.java().kill()
        assert server.exit_code(END_SECONDS) == 1
        assert "vestal: TorchServe ended (killed by SIGKILL)" in server.err
        assert "ModelManager - Model echo loaded." in server.err
        server.assert_nothing_left()


@pytest.mark.slow
def test_kill_9_of_the_guardian(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--port", "0")
        server.ready()
        [guardian] = server.processes("guardian.py")
        guardian.kill()
        assert server.exit_code(END_SECONDS) == 1
        assert "vestal: TorchServe ended (its guardian was killed)" in server.err
        server.assert_nothing_left()
