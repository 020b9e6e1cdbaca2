"""`vestal serve` as a service of systemd (`Type=notify`, `WatchdogSec=`)."""

from __future__ import annotations

import signal
import socket

import pytest
from serving import START_SECONDS, archive, serving


@pytest.mark.slow
def test_systemd_is_told_that_the_server_is_ready_alive_and_stopping(tmp_path, monkeypatch):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        serving(tmp_path / "project") as server,
    ):
        address = server.temp.with_suffix(".notify")
        systemd.bind(str(address))
        systemd.settimeout(START_SECONDS)
        try:
            monkeypatch.setenv("NOTIFY_SOCKET", str(address))
            archive(server.project.model_store, "echo")
            server.start("--port", "0")
            states = [systemd.recv(100)]
            while states[-1] != b"READY=1":  # the keeper is alive before
                states.append(systemd.recv(100))
            assert server.project.ready_file.exists()
            assert systemd.recv(100) == b"WATCHDOG=1"
            server.signal(signal.SIGTERM)
            while (state := systemd.recv(100)) == b"WATCHDOG=1":
                pass
            assert state == b"STOPPING=1"
            assert server.exit_code() == 0
        finally:
            address.unlink()
    assert set(states) <= {b"READY=1", b"WATCHDOG=1"}
