"""`vestal register`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestal.cli.changing import ChangeTimeout, change_desired, model_store
from vestal.cli.output import Json
from vestal.errors import UsageError

if TYPE_CHECKING:
    from vestal.fleet.desired import Desired


def register(
    archive: Annotated[
        str,
        typer.Argument(
            metavar="ARCHIVE",
            help="Archive in the model store: mnist-1.0, or mnist if there is one version.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the model. Default: the archive's.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|MIN-MAX", help="Number of workers. Default: the archive's, or 1."),
    ] = None,
    default: Annotated[
        bool,
        typer.Option(
            "--default", help="Make it the default version; the previous one stays registered."
        ),
    ] = False,
    timeout: ChangeTimeout = 900.0,
    as_json: Json = False,
) -> None:
    """Serve an archive from the model store.

    The first version of a model is its default version.
    """
    from vestal.fleet import changes
    from vestal.fleet.resolving import version_target
    from vestal.mar.store import find_stored
    from vestal.project import Project
    from vestal.server.spec import read_spec

    store = model_store(Project.here())
    path = _in_store(archive, store)
    spec = read_spec(find_stored(store, path), name)
    bounds = changes.parse_workers(workers) if workers is not None else None
    target = version_target(spec.archive, bounds)

    def change(desired: Desired) -> Desired:
        chosen = target
        known = desired.models.get(spec.name)
        if known is not None and spec.version in known.versions and bounds is None:
            chosen = target.model_copy(update={"workers": known.versions[spec.version].workers})
        return changes.register(desired, spec.name, spec.version, chosen, default=default)

    command = f"vestal register {spec.archive.name}"
    change_desired(command, change, model=spec.name, seconds=timeout, as_json=as_json)


def _in_store(archive: str, store: Path) -> str:
    """Return the archive's name in the store; a path must be in it."""
    path = Path(archive)
    if len(path.parts) < 2:
        return archive
    if path.absolute().parent.resolve() != store.resolve():
        raise UsageError(f"{archive} is not in the model store {store}. Copy it there first")
    return path.name
