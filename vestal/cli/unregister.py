"""`vestal unregister`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vestal.cli.changing import ChangeTimeout, change_desired
from vestal.cli.output import Json

if TYPE_CHECKING:
    from vestal.fleet.desired import Desired


def unregister(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[-VERSION]", help="Model with all its versions (mnist), or one version."
        ),
    ],
    timeout: ChangeTimeout = 900.0,
    as_json: Json = False,
) -> None:
    """Stop serving a model or a version, after its requests have been answered."""
    from vestal.fleet import changes

    def change(desired: Desired) -> Desired:
        return changes.unregister(desired, *changes.split_name(desired, name))

    change_desired(
        f"vestal unregister {name}", change, model=None, seconds=timeout, as_json=as_json
    )
