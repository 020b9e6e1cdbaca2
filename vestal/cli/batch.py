"""`vestal batch`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vestal.cli.arguments import Archive, Version
from vestal.cli.native import native_messages_hidden
from vestal.cli.output import Json, count_of, err, out, print_json
from vestal.cli.progress import new_bar

if TYPE_CHECKING:
    from vestal.batch.run import Summary


def batch(
    archive: Archive,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Files, folders (with one subfolder for each label) or globs; or a table (.csv, "
            ".jsonl) with one input per row; or a text file (.txt) with one per line.",
        ),
    ],
    out_: Annotated[
        Path,
        typer.Option(
            "--out", help="File to create: .csv, .parquet or .jsonl (with complete responses)."
        ),
    ],
    version: Version = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of inputs per batch. Default: batchSize of the archive."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Number of threads that read files ahead; 0 for none.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the output of a finished run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Predict many files, rows or texts with an archive, without a server.

    An input that fails becomes a row with its error.

    After an interruption, the same command continues where it stopped.
    """
    with err.status("Loading PyTorch"):
        from vestal.batch.run import run
        from vestal.mar.store import find_archive
        from vestal.project import Project

    found = find_archive(Project.here(), archive, version)
    with native_messages_hidden(), new_bar() as bar, warnings.catch_warnings():
        # Errors of a file are in its row; warnings of Pillow would break the progress bar.
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
        print_json(summary.to_json())
    else:
        print_summary(summary)
    if summary.failed:
        raise typer.Exit(1)


def print_summary(found: Summary) -> None:
    """Print counts, accuracy and errors."""
    new = found.rows - found.before
    again = f" ({found.before:,} from an earlier run)" if found.before else ""
    rate = f", {found.rows_per_second:,.1f} inputs/s" if new else ""
    inputs = count_of(found.rows, "input")
    out.print(Text(f"{inputs} predicted with {found.model} {found.version}{again}{rate}"))
    if found.accuracy is not None:
        out.print(Text(f"{found.right:,} of {found.judged:,} correct ({found.accuracy:.2%})"))
    if found.unlabelled:
        files = count_of(found.unlabelled, "file")
        text = f"{files} without a true label: the folder's name is not a label of the model"
        out.print(Text(text, style="dim"))
    if found.mean_absolute_error is not None:
        out.print(Text(f"Mean absolute error: {found.mean_absolute_error:.4g}"))
    for kind, count in found.errors.items():
        out.print(Text(f"{count:,} failed: {kind}", style="red"))
    out.print(Text(f"Output: {found.out}"))
