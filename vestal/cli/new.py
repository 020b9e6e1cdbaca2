"""`vestal new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vestal.cli.output import Json, err, out, print_json


def new(
    model: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model to create.")],
    task: Annotated[
        str,
        typer.Option(
            help="image_classifier, text_generator, text_classifier or regressor; custom for a "
            "model with a handler of its own that is only served; or, with --weights, transformers "
            "or a task of Hugging Face."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON Lines table to train on, or text for a text_generator; it is copied. "
            "Default: a small one from Python or scikit-learn."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of --data that a regressor predicts. Default: the last."
        ),
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
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Hugging Face folder of a pretrained model; it is not copied."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create the folder of a new model, models/NAME, with all it needs to be served."""
    with err.status("Creating the model"):
        from vestal.project import Project
        from vestal.scaffold import create

        created = create(
            Project.here(),
            model,
            task,
            data,
            target,
            ignore=ignore or (),
            encode=encode or (),
            weights=weights,
        )
    if as_json:
        print_json({**vars(created), "folder": str(created.folder)})
        return
    out.print(f"Created {created.folder}:", markup=False, soft_wrap=True)
    for file in created.files:
        out.print(f"  {file}", markup=False)
    out.print(f"Next: {created.next_command}", style="dim", markup=False, soft_wrap=True)
