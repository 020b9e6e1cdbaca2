"""`vestal serve`, its guardian, its TorchServe or a worker is killed."""

from __future__ import annotations

import contextlib
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


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_torchserve_that_ends_again_and_again_ends_the_command(
    tmp_path,
):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--port", "0")
        server.ready()
        [worker] = server.processes("model_service_worker")
        worker.kill()

        def another() -> list[psutil.Process]:
            return [each for each in server.processes("model_service_worker") if each != worker]

        until(another, START_SECONDS, "another worker")

        def ended() -> bool:
            for java in server.processes("ModelServer"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    java.kill()
            return "times within" in server.err

        until(ended, START_SECONDS, "the end")
        assert server.exit_code(END_SECONDS) == 1
        assert "TorchServe ended (killed by SIGKILL); starting it again" in server.err
        assert "vestal: TorchServe ended (killed by SIGKILL)" in server.err
        server.assert_nothing_left()


@pytest.mark.slow
def test_kill_9_of_the_guardian(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo")
        server.start("--port", "0")
        first = server.ready()
        [guardian] = server.processes("guardian.py")
        guardian.kill()
        until(lambda: "its guardian was killed" in server.err, END_SECONDS, "the restart")
        assert server.ready().models == first.models
        server.signal(signal.SIGTERM)
        assert server.exit_code(END_SECONDS) == 0
        server.assert_nothing_left()
