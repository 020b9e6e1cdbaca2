"""`vestal stop`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from vestal.cli.output import Json, err, out, print_json
from vestal.errors import VestalError

if TYPE_CHECKING:
    from vestal.fleet.keeper_client import KeeperClient

_POLL_SECONDS = 0.1


def stop(
    timeout: Annotated[
        float, typer.Option(min=1, help="Time limit for the end of the server, in seconds.")
    ] = 90.0,
    as_json: Json = False,
) -> None:
    """Stop the server of this project, after its requests have been answered."""
    import psutil

    deadline = time.monotonic() + timeout
    client = _find_keeper(deadline)
    process = psutil.Process(client.pid) if psutil.pid_exists(client.pid) else None
    client.stop()
    with err.status("Waiting for requests in progress"):
        while process is not None and _runs(process):
            if time.monotonic() > deadline:
                raise VestalError(
                    f"the server (process {client.pid}) has not ended after {timeout:g} s. "
                    f"`kill {client.pid}` ends it without waiting for requests"
                )
            time.sleep(_POLL_SECONDS)
    if as_json:
        print_json({"stopped": client.pid})
    else:
        out.print("Stopped")


def _find_keeper(deadline: float) -> KeeperClient:
    """Find the keeper; of a server that has just been started, wait for it."""
    from vestal.client.errors import ConnectionFailed
    from vestal.client.settings import phase_near
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.project import Project

    project = Project.here()
    while True:
        try:
            return KeeperClient(project)
        except ConnectionFailed:
            phase = phase_near(project.ready_file)
            if phase is None or phase.phase != "starting" or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _runs(process: object) -> bool:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
