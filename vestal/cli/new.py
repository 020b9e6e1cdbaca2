"""`vestal new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vestal.cli.output import Json, err, out, print_json


def new(
    model: Annotated[str, typer.Argument(help="The name of the model, and of its folder.")],
    task: Annotated[
        str,
        typer.Option(help="image_classifier, text_generator, text_classifier or regressor."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="A CSV or JSON Lines table, or for a text_generator a text, to begin with; it is "
            "copied. By default a small one that comes with Python or scikit-learn."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="A regressor's column of --data to predict; by default the last one."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of --data to leave out; repeat for several."),
    ] = None,
    encode: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Text column of --data to turn into columns of 0 and 1, one for each value; "
            "repeat for several.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write models/MODEL: a model of your own that trains, packs and serves at once."""
    with err.status("Writing"):
        from vestal.project import Project
        from vestal.scaffold import create

        made = create(
            Project.here(), model, task, data, target, ignore=ignore or (), encode=encode or ()
        )
    if as_json:
        print_json({**vars(made), "folder": str(made.folder)})
        return
    out.print(f"written: {made.folder}", markup=False, soft_wrap=True)
    for file in made.files:
        out.print(f"  {file}", markup=False)
    out.print(f"next: {made.train}", style="dim", markup=False, soft_wrap=True)
