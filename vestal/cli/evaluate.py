"""`vestal evaluate`: one number for weights, archive and server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.output import Json, err, out, print_json
from vestal.cli.progress import progress_bar
from vestal.errors import UsageError
from vestal.runs import shown

if TYPE_CHECKING:
    from vestal.evaluation import Evaluation
    from vestal.evaluation.reports import Classified

SHOWN = 10  # refused inputs, and classes of many; --json has all


def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|ARCHIVE|URL",
            help="A model's weights (its newest run), an archive (.mar or its folder), or a "
            "served model: http://host:port/predictions/NAME[/VERSION].",
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option(help="By default the one that it was trained on.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The folder or file that holds the data set, if not downloaded."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Other weights of MODEL: as for `vestal pack`.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Of the served model, or of MODEL's archive in the store.")
    ] = None,
    served: Annotated[
        bool, typer.Option("--served", help="Ask MODEL on the server of this project.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="The served model, where the URL does not name it.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Whose test data it is; by default the model's own.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the confusion matrix, or predicted against actual, here."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Of each request, in seconds.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Measure weights, an archive or a served model on the test split of its recipe."""
    with err.status("Loading PyTorch"):
        from vestal.cli.targets import Asked, opened
        from vestal.evaluation import evaluate as measure
        from vestal.evaluation import facts
        from vestal.project import Project
        from vestal.recipes.objectives import NextToken
        from vestal_handlers.labels import shared_labels

    asked = Asked(target, weights, version, served, model, recipe, timeout)
    with opened(Project.here(), asked) as found:
        if plot and isinstance(found.recipe.objective, NextToken):
            raise UsageError("perplexity is one number: there is nothing to draw (no --plot)")
        known = found.trained_on if found.trained_on in found.recipe.datasets else None
        name, _ = found.recipe.dataset(dataset or known)
        splits = found.recipe.splits(name, data)
        if shared := shared_labels(splits.labels or ()):
            err.print(Text(f"warning: {shared}", style="yellow"), soft_wrap=True)
        with progress_bar(f"Evaluating {found.name}", len(splits.test)) as progress:
            measured = measure(
                found.recipe,
                found.source,
                splits,
                model=found.name,
                dataset=name,
                progress=progress,
            )
    if as_json:
        print_json(facts(measured))
    else:
        print_evaluation(measured)
    if plot:
        measured.draw(plot)
        err.print(f"drawn: {plot}")
    if measured.refused:
        raise typer.Exit(1)


def print_evaluation(found: Evaluation) -> None:
    """Figures, classes and refused inputs, for people."""
    from vestal.evaluation.reports import Classified, Regressed, Scored

    report = found.report
    out.print(Text(found.title, style="bold"), Text(found.place, style="dim"))
    figures = Table(box=None, pad_edge=False)
    row = {"inputs": f"{found.size:,}", "refused": f"{len(found.refused):,}"}
    for name, value in report.figures.items():
        row[name] = shown(name, value)
    if isinstance(report, Classified) and report.undecided:
        row["without label"] = f"{report.undecided:,}"
    if isinstance(report, Scored):
        row["tokens"] = f"{report.tokens:,}"
    for name in row:
        figures.add_column(name, justify="right")
    figures.add_row(*row.values())
    out.print(figures)
    if isinstance(report, Regressed) and report.units:
        out.print(Text(f"mae and rmse in {report.units}", style="dim"))
    if isinstance(report, Classified):
        out.print(_classes(report))
    for one in found.refused[:SHOWN]:
        status = f"{one['status']} " if one["status"] else ""
        text = f"input {one['index']}: {status}{one['type']}: {one['message']}"
        out.print(Text(text, style="red"))
    if len(found.refused) > SHOWN:
        out.print(Text(f"and {len(found.refused) - SHOWN} more refused (--json has them)"))


def _classes(report: Classified) -> Table:
    from vestal.training.plots import MOST_NAMED

    rows = report.classes
    title = None
    if len(rows) > MOST_NAMED:
        rows = sorted((row for row in rows if row.support), key=lambda row: row.f1)[:SHOWN]
        title = f"the {len(rows)} classes with the lowest F1 (--json has all)"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="dim")
    table.add_column("class", overflow="fold")
    for column in ("precision", "recall", "f1", "support"):
        table.add_column(column, justify="right")
    for row in rows:
        shares = (f"{value:.1%}" for value in (row.precision, row.recall, row.f1))
        table.add_row(Text(row.label), *shares, f"{row.support:,}")
    return table
