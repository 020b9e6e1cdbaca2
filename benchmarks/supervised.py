"""`vestal serve` on fixed ports under a supervisor, which starts it again whenever it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time

import psutil

from benchmarks.client_server import consecutive_ports
from vestal.project import Project

START_SECONDS = 300.0
RESTART_SECONDS = 0.1
"""`RestartSec` of systemd, by default."""


class Supervised:
    """Runs `vestal serve` in a project, from entering to leaving the `with`.

    Attributes:
        inference, management: addresses, which stay.
        starts: how often it was started.
    """

    def __init__(self, project: Project) -> None:
        self.project, self._port = project, consecutive_ports(4)
        self.inference = f"http://127.0.0.1:{self._port}"
        self.management = f"http://127.0.0.1:{self._port + 1}"
        self.starts = 0
        self._stopping = threading.Event()
        self._log = (project.root / "serve.log").open("wb")
        self._start()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> Supervised:
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self.project.ready_file.exists():
            if time.monotonic() > deadline:
                raise RuntimeError((self.project.root / "serve.log").read_text())
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._log.close()

    def kill(self) -> None:
        """Kill `vestal serve`; returns when it has been started again."""
        starts = self.starts
        self._process.kill()
        while self.starts == starts:
            time.sleep(0.01)

    def processes(self, argument: str) -> list[psutil.Process]:
        """Find processes of the server by an argument of their command lines."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if any(argument in each for each in process.cmdline()):
                        found.append(process)
        return found

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vestal", "serve", "--port", str(self._port)],
            cwd=self.project.root,
            stdout=self._log,
            stderr=self._log,
        )
        self.starts += 1

    def _supervise(self) -> None:
        while not self._stopping.wait(0.02):
            if self._process.poll() is not None and not self._stopping.wait(RESTART_SECONDS):
                self._start()
