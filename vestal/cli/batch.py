"""`vestal batch`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vestal.cli.native import native_messages_hidden
from vestal.cli.output import Json, err, out, print_json
from vestal.cli.progress import new_bar

if TYPE_CHECKING:
    from vestal.batch.run import Summary


def batch(
    archive: Annotated[
        str, typer.Argument(help="A .mar, or one of model_store: mnist-1.0, or its model's name.")
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER|GLOB|TABLE|TXT",
            help="A folder (of folders named by label), a glob or files; or a table (.csv, "
            ".jsonl); or a text file with a text in each line.",
        ),
    ],
    out_: Annotated[
        Path, typer.Option("--out", help="predictions.csv, .parquet or .jsonl (all of an answer).")
    ],
    version: Annotated[
        str | None, typer.Option(help="Of a model that has several in model_store.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="By default the archive's own batchSize.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that read files ahead; 0 for none.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a finished output.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict a folder, a table or a text file at once, without a server.

    A bad input is a row with its error. Interrupted, the same command goes on where it was.
    """
    with err.status("Loading PyTorch"):
        from vestal.batch.run import run, to_json
        from vestal.mar.store import find_archive
        from vestal.project import Project

    found = find_archive(Project.here(), archive, version)
    with native_messages_hidden(), new_bar() as bar, warnings.catch_warnings():
        # A file's error is in its row; Pillow's warnings would tear the bar apart.
        warnings.simplefilter("ignore")
        task = bar.add_task(f"Loading {found.name}", total=None)

        def show(done: int, failed: int, total: int) -> None:
            wrong = f" ({failed:,} failed)" if failed else ""
            bar.update(task, completed=done, total=total, description=f"{found.name}{wrong}")

        summary = run(
            found,
            inputs,
            out_,
            batch_size=batch_size,
            workers=workers,
            overwrite=overwrite,
            progress=show,
        )
    if as_json:
        print_json(to_json(summary))
    else:
        print_summary(summary)
    if summary.failed:
        raise typer.Exit(1)


def print_summary(found: Summary) -> None:
    """What became of the inputs, for people."""
    new = found.rows - found.before
    again = f" ({found.before:,} of them by the run before)" if found.before else ""
    rate = f", {found.rows_per_second:,.1f}/s" if new else ""
    out.print(Text(f"{found.rows:,} rows by {found.model} {found.version}{again}{rate}"))
    if found.accuracy is not None:
        out.print(Text(f"{found.right:,} of {found.judged:,} right ({found.accuracy:.2%})"))
    if found.unlabelled:
        what = "not judged: files in folders that are none of the model's labels"
        out.print(Text(f"{found.unlabelled:,} {what}", style="dim"))
    if found.mean_absolute_error is not None:
        out.print(Text(f"mean absolute error {found.mean_absolute_error:.4g}"))
    for kind, count in found.errors.items():
        out.print(Text(f"{count:,} failed: {kind}", style="red"))
    out.print(Text(f"written: {found.out}"))
