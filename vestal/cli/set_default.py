"""`vestal set-default`."""

from __future__ import annotations

from typing import Annotated

import typer

from vestal.cli.changing import ChangeTimeout, change_desired
from vestal.cli.output import Json


def set_default(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a served model.")],
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="Registered version to make the default.")
    ],
    timeout: ChangeTimeout = 900.0,
    as_json: Json = False,
) -> None:
    """Make a registered version the default; the previous one stays registered."""
    from vestal.fleet import changes

    change_desired(
        f"vestal set-default {model} {version}",
        lambda desired: changes.set_default(desired, model, version),
        model=model,
        seconds=timeout,
        as_json=as_json,
    )
