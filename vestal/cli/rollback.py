"""`vestal rollback`."""

from __future__ import annotations

from typing import Annotated

import typer

from vestal.cli.changing import ChangeTimeout, finish, source_of, warn_about_file
from vestal.cli.output import Json


def rollback(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Model whose previous version should serve again. Default: undo the last change.",
        ),
    ] = None,
    timeout: ChangeTimeout = 900.0,
    as_json: Json = False,
) -> None:
    """Return to the previous version of a model, or undo the last change.

    A previous version that is still registered serves again at once.
    """
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.project import Project

    project = Project.here()
    client = KeeperClient(project)
    command = f"vestal rollback {model}" if model else "vestal rollback"
    revision = client.rollback(model, source_of(command))
    finish(client, revision, None, timeout, as_json)
    warn_about_file(project, client.desired()[1])
