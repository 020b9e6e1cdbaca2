"""`vestal shadow`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vestal.cli.output import Json, count_of, out, print_json, shortened
from vestal.cli.plan_output import format_seconds, new_table
from vestal.cli.progress import new_bar

if TYPE_CHECKING:
    from vestal.shadow.comparison import Comparison
    from vestal.shadow.report import Report

SHOWN = 10  # label changes and examples that are printed; --json has more

app = typer.Typer(help="Compare a shadow version with the live version.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def report(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a served model.")],
    version: Annotated[
        str | None, typer.Option(help="Shadow version. Default: the last one that was compared.")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, help="Largest accepted difference of two numbers, relative for numbers above 1."
        ),
    ] = 1e-4,
    as_json: Json = False,
) -> None:
    """Compare the responses of a shadow version with those of the live version.

    The gateway mirrors requests to the shadow version and discards its responses. Workers keep both
    sides of each pair in .vestal/shadow/, so the server need not run.
    """
    from vestal.project import Project
    from vestal.shadow.report import make_report

    with new_bar() as bar:
        task = bar.add_task("Reading responses", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, description="Comparing responses", completed=done, total=total)

        found = make_report(Project.here().shadow, model, version, tolerance, progress=show)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found, tolerance)


def _show(found: Report, tolerance: float) -> None:
    for comparison in found.comparisons:
        _show_comparison(found, comparison, tolerance)
    if not found.comparisons:
        out.print(Text(f"{found.model}: no response of shadow {found.version} was compared"))
    for side, reasons in (("live", found.live), ("shadow", found.shadow)):
        if reasons:
            out.print(Text(_not_compared(side, reasons)), soft_wrap=True)
    if found.damaged:
        out.print(f"{count_of(found.damaged, 'damaged line')} skipped", soft_wrap=True)


def _show_comparison(found: Report, comparison: Comparison, tolerance: float) -> None:
    total, equal = comparison.compared, comparison.equal
    pairs = f"{found.model}: live {comparison.version}, shadow {found.version}"
    out.print(Text(f"{pairs}, {_period(found)}", style="bold"), soft_wrap=True)
    style = "bold green" if equal == total else "bold red"
    line = f"{equal:,} of {count_of(total, 'response')} equal ({equal / total:.2%})"
    out.print(Text.assemble((line, style), f", numbers within {tolerance:g}"), soft_wrap=True)
    counts = {"status": comparison.statuses, "label": comparison.labels, "text": comparison.texts}
    parts = [f"{count:,} with another {name}" for name, count in counts.items() if count]
    numbers = {"probability": comparison.probability, "value": comparison.value}
    parts += [f"largest {k} difference {v:.2g}" for k, v in numbers.items() if v is not None]
    if parts:
        out.print(", ".join(parts), soft_wrap=True)
    table = new_table("", "live", "shadow", right=("live", "shadow"))
    sides = (comparison.live, comparison.shadow)
    table.add_row("p50 in the handler", *(format_seconds(each.percentile(50)) for each in sides))
    table.add_row("p99 in the handler", *(format_seconds(each.percentile(99)) for each in sides))
    table.add_row("rejected (4xx)", *(f"{each.rejected:,}" for each in sides))
    table.add_row("failed (5xx)", *(f"{each.failed:,}" for each in sides))
    out.print(table)
    if comparison.changes:
        table = new_table("live label", "shadow label", "responses", right=("responses",))
        for (before, after), count in comparison.changes.most_common(SHOWN):
            table.add_row(Text(shortened(before, 40)), Text(shortened(after, 40)), f"{count:,}")
        out.print(table)
    if comparison.examples:
        table = new_table("request ID", "difference")
        for example in comparison.examples[:SHOWN]:
            table.add_row(Text(shortened(example.id, 40)), Text(shortened(example.difference, 200)))
        out.print(table)


def _period(found: Report) -> str:
    if found.began is None or found.ended is None:
        return ""
    format_, (began, ended) = "%Y-%m-%d %H:%M:%S", (found.began, found.ended)
    return " to ".join(time.strftime(format_, time.localtime(each)) for each in (began, ended))


def _not_compared(side: str, reasons: Mapping[str, int]) -> str:
    listed = "; ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    return f"Not compared: {sum(reasons.values()):,} of the {side} version ({listed})"
