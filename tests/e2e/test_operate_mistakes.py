"""What can go wrong on an operator's machine: one sentence each, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from serving import ECHO, END_SECONDS, START_SECONDS, archive, serving, until
from test_operate import answer, describe, serving_yaml, succeed, vestal

# Also without root, if the kernel allows user namespaces.
IN_NAMESPACE = ("unshare", "--map-root-user", "--mount")


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_a_port_in_use_is_named_with_its_process(tmp_path, detach):
    with serving(tmp_path / "project") as server, socket.socket() as listener:
        archive(server.project.model_store, "echo")
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        code, _, err = vestal(server, "serve", *detach, "--port", str(port - 3))
        expected = f"vestal: port {port} (keeper_address) is in use by pid {os.getpid()}, "
        assert (code, err.splitlines()[-1].startswith(expected)) == (1, True), err
        assert not server.project.phase_file.exists()


def test_a_server_that_is_starting_refuses_a_second_one_and_can_be_stopped_at_once(tmp_path):
    with serving(tmp_path / "project") as server:
        archive(server.project.model_store, "echo", f"import time; time.sleep(600)\n{ECHO}")
        server.start("--port", "0")
        until(server.project.phase_file.exists, START_SECONDS, "the phase file")
        code, _, err = vestal(server, "serve", "--port", "0")
        running = f"is already running in this project (pid {server.pid}, starting or stopping)"
        assert (code, running in err) == (1, True), err
        assert succeed(server, "stop") == "Stopped\n"
        assert server.exit_code(END_SECONDS) == 0
        assert server.err.splitlines()[-1] == "Stopped"
        server.assert_nothing_left()


def can_mount() -> bool:
    command = [*IN_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_mount(), reason="file systems cannot be mounted here")
@pytest.mark.slow
def test_with_a_full_disk_the_models_are_served_and_changes_are_refused(tmp_path):
    """The state is on a small file system of its own, which only the server sees."""
    with serving(tmp_path / "project") as server:
        loads_slowly = f"import time; time.sleep(3)\n{ECHO}"
        for version, handler in (("1.0", ECHO), ("2.0", ECHO), ("3.0", loads_slowly)):
            archive(server.project.model_store, "echo", handler, version)
        serving_yaml(server, "1.0")
        (server.project.state / "state").mkdir(mode=0o700, parents=True)
        mount = "mount -t tmpfs -o size=256k tmpfs .vestal/state"
        serve = f"{sys.executable} -m vestal serve --port 0"
        server.run(*IN_NAMESPACE, "sh", "-c", f"{mount} && exec {serve}")
        server.ready()
        inside = Path(f"/proc/{server.pid}/root{server.project.state}/state")

        fill(inside / "fill")
        serving_yaml(server, "2.0")
        code, _, err = vestal(server, "apply")
        full = "the disk is full: no space left in "
        assert (code, err.splitlines()[-1].startswith(f"vestal: {full}")) == (1, True), err
        assert answer(server) == "1.0"
        assert "Ready (revision 1)" in succeed(server, "status")
        (inside / "fill").unlink()
        assert "Done: echo 1.0 -> 2.0" in succeed(server, "apply")

        serving_yaml(server, "3.0")
        applying = subprocess.Popen(
            [sys.executable, "-m", "vestal", "apply"],
            cwd=server.project.root,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: "loading echo 3.0" in server.err, START_SECONDS, "the swap")
        fill(inside / "fill")  # nothing that the keeper does from now on can be stored
        until(lambda: full in server.err, START_SECONDS, "a sentence about it")
        assert answer(server) in ("2.0", "3.0")
        (inside / "fill").unlink()
        _, err = applying.communicate(timeout=START_SECONDS)
        expected = f"vestal: echo: {full}"
        assert (applying.returncode, err.splitlines()[-1].startswith(expected)) == (1, True), err
        # The keeper goes on by itself.
        until(lambda: describe(server) == {"echo": ("3.0", ["3.0"])}, START_SECONDS, "echo 3.0")
        assert "Traceback" not in err + server.err
        server.signal(signal.SIGTERM)
        assert server.exit_code(END_SECONDS) == 0


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    assert shutil.disk_usage(file.parent).free == 0
