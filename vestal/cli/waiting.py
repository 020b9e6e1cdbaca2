"""Wait for a server of this project that is starting."""

from __future__ import annotations

import time

from vestal.cli.output import err
from vestal.client.settings import phase_near
from vestal.project import Project

_POLL_SECONDS = 0.1


def wait_for_server(seconds: float) -> None:
    """Wait until no server of this project is starting, at most this long."""
    ready_file = Project.here().ready_file
    deadline = time.monotonic() + seconds
    waiting = False
    while time.monotonic() < deadline and not ready_file.exists():
        phase = phase_near(ready_file)
        if phase is None or phase.phase != "starting":
            return
        if not waiting:
            since = time.strftime("%H:%M:%S", time.localtime(phase.since))
            err.print(f"Waiting for the server, which has been starting since {since}", style="dim")
            waiting = True
        time.sleep(_POLL_SECONDS)
