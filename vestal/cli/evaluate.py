"""`vestal evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.arguments import Data, ModelOrArchive, RequestTimeout, Version, Weights
from vestal.cli.output import Json, err, out, print_json, print_warning
from vestal.cli.progress import progress_bar
from vestal.errors import UsageError
from vestal.runs import format_metric

if TYPE_CHECKING:
    from vestal.evaluation import Evaluation
    from vestal.evaluation.reports import ClassificationReport

SHOWN = 10  # refused inputs and, of many, classes; --json lists all


def evaluate(
    target: ModelOrArchive,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set of the recipe. Default: the one that the weights were trained on."
        ),
    ] = None,
    data: Data = None,
    weights: Weights = None,
    version: Version = None,
    served: Annotated[
        bool, typer.Option("--served", help="Measure the model on the server of this project.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="Base URL of another server to measure the model on."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Model whose recipe has the test data. Default: the model itself."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Image file to create: the confusion matrix, or predicted against actual numbers."
        ),
    ] = None,
    timeout: RequestTimeout = 60.0,
    as_json: Json = False,
) -> None:
    """Measure weights, an archive or a served model on the test split of its recipe."""
    with err.status("Loading PyTorch"):
        from vestal.cli.targets import EvaluationOptions, open_target
        from vestal.evaluation import as_json as evaluation_json
        from vestal.evaluation import evaluate as measure
        from vestal.project import Project
        from vestal.recipes.objectives import NextToken
        from vestal_handlers.labels import shared_labels

    options = EvaluationOptions(target, weights, version, served, url, recipe, timeout)
    with open_target(Project.here(), options) as found:
        if plot and isinstance(found.recipe.objective, NextToken):
            raise UsageError("--plot: perplexity is a single number, so there is nothing to draw")
        known = found.trained_on if found.trained_on in found.recipe.datasets else None
        name, _ = found.recipe.dataset(dataset or known)
        splits = found.recipe.splits(name, data)
        if shared := shared_labels(splits.labels or ()):
            print_warning(shared)
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
        print_json(evaluation_json(measured))
    else:
        print_evaluation(measured)
    if plot:
        measured.draw(plot)
        err.print(f"Plot: {plot}")
    if measured.refused:
        raise typer.Exit(1)


def print_evaluation(found: Evaluation) -> None:
    """Print metrics, classes and refused inputs."""
    from vestal.evaluation.reports import ClassificationReport, PerplexityReport, RegressionReport

    report = found.report
    out.print(Text(found.title, style="bold"), Text(found.place, style="dim"))
    table = Table(box=None, pad_edge=False)
    row = {"inputs": f"{found.size:,}", "refused": f"{len(found.refused):,}"}
    for name, value in report.metrics.items():
        row[name] = format_metric(name, value)
    if isinstance(report, ClassificationReport) and report.undecided:
        row["no label"] = f"{report.undecided:,}"
    if isinstance(report, PerplexityReport):
        row["tokens"] = f"{report.tokens:,}"
    for name in row:
        table.add_column(name, justify="right")
    table.add_row(*row.values())
    out.print(table)
    if isinstance(report, RegressionReport) and report.units:
        out.print(Text(f"Unit of mae and rmse: {report.units}", style="dim"))
    if isinstance(report, ClassificationReport):
        out.print(_classes(report))
    for one in found.refused[:SHOWN]:
        status = f"{one['status']} " if one["status"] else ""
        text = f"input {one['index']}: {status}{one['type']}: {one['message']}"
        out.print(Text(text, style="red"))
    if len(found.refused) > SHOWN:
        out.print(Text(f"and {len(found.refused) - SHOWN} more (--json lists all)"))


def _classes(report: ClassificationReport) -> Table:
    from vestal.training.plots import MOST_NAMED

    rows = report.classes
    title = None
    if len(rows) > MOST_NAMED:
        rows = sorted((row for row in rows if row.support), key=lambda row: row.f1)[:SHOWN]
        title = f"The {len(rows)} classes with the lowest F1 (--json lists all)"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="dim")
    table.add_column("class", overflow="fold")
    for column in ("precision", "recall", "f1", "support"):
        table.add_column(column, justify="right")
    for row in rows:
        shares = (f"{value:.1%}" for value in (row.precision, row.recall, row.f1))
        table.add_row(Text(row.label), *shares, f"{row.support:,}")
    return table
