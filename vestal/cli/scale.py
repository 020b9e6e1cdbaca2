"""`vestal scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from vestal.cli.changing import ChangeTimeout, change_desired
from vestal.cli.output import Json


def scale(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a served model.")],
    workers: Annotated[
        str,
        typer.Argument(
            metavar="N|MIN-MAX",
            help="Number of workers, or bounds between which the keeper scales: 2 or 1-4.",
        ),
    ],
    version: Annotated[
        str | None, typer.Option(help="Version to scale. Default: the default version.")
    ] = None,
    timeout: ChangeTimeout = 900.0,
    as_json: Json = False,
) -> None:
    """Change the number of workers of a version."""
    from vestal.fleet import changes

    bounds = changes.parse_workers(workers)
    change_desired(
        f"vestal scale {model} {workers}",
        lambda desired: changes.scale(desired, model, version, bounds),
        model=model,
        seconds=timeout,
        as_json=as_json,
    )
