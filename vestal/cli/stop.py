"""`vestal stop`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from vestal.cli.output import Json, err, out, print_json
from vestal.errors import VestalError

_POLL_SECONDS = 0.1


def stop(
    timeout: Annotated[
        float, typer.Option(min=1, help="Time limit for the end of the server, in seconds.")
    ] = 90.0,
    as_json: Json = False,
) -> None:
    """Stop the server of this project, after its requests have been answered."""
    import psutil

    from vestal.fleet.keeper_client import KeeperClient
    from vestal.project import Project

    client = KeeperClient(Project.here())
    process = psutil.Process(client.pid) if psutil.pid_exists(client.pid) else None
    client.stop()
    deadline = time.monotonic() + timeout
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


def _runs(process: object) -> bool:
    import psutil

    assert isinstance(process, psutil.Process)
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
