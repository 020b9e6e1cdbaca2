"""`vestal check`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.output import Json, err, out, print_json
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.checking import Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def check(
    archives: Annotated[
        list[Path], typer.Argument(metavar="ARCHIVE...", help=".mar, .tar.gz, or folders.")
    ],
    run: Annotated[
        bool | None,
        typer.Option(
            "--run/--no-run",
            help="Load it too, in a process of its own, and ask it for its sample; by default "
            "only what this project packed itself. It runs the archive's code.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Of that run, in seconds.")] = 120.0,
    memory: Annotated[float, typer.Option(min=1, help="Of that run, in GB.")] = 8.0,
    as_json: Json = False,
) -> None:
    """Find what is wrong with an archive before TorchServe does."""
    if not (math.isfinite(memory) and math.isfinite(timeout)):
        raise UsageError(f"--memory {memory:g} and --timeout {timeout:g}: give finite numbers")
    reports: list[Report] = []
    failed: list[VestalError] = []
    for archive in archives:
        with err.status(f"Checking {archive.name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that read it: findings are ours
            from vestal.checking.checker import check as check_archive
            from vestal.checking.checker import is_ours
            from vestal.project import Project

            try:
                wanted = is_ours(Project.here(), archive) if run is None else run
                size = int(memory * 1e9)
                reports.append(check_archive(archive, run=wanted, seconds=timeout, memory=size))
            except VestalError as error:  # the others are checked all the same
                failed.append(error)
    if as_json:
        print_json([_facts(report) for report in reports])
    else:
        for report in reports:
            _print(report)
    if failed:
        worst = max(failed, key=lambda error: error.exit_code)
        raise type(worst)("; ".join(str(error) for error in failed))
    if any(report.failed for report in reports):
        raise typer.Exit(1)


def _facts(report: Report) -> dict[str, object]:
    return {
        "archive": str(report.archive),
        "ok": not report.failed,
        "ran": report.ran,
        "findings": [found.to_dict() for found in report.findings],
    }


def _print(report: Report) -> None:
    from vestal.mar.findings import visible

    counts = [
        f"{number} {name}{'s' if number > 1 else ''}"
        for name in _STYLES
        if (number := sum(found.severity == name for found in report.findings))
    ]
    how = "read and run" if report.ran else "read, not run"
    # A Text, never a string: what stands in an archive is no markup.
    title = Text.assemble(
        (visible(str(report.archive), 4000), "bold"), f"  {', '.join(counts) or 'good'} ({how})"
    )
    out.print(title)
    if not report.findings:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name in ("severity", "code", "where", "what it means, and what to do"):
        table.add_column(name, overflow="fold", no_wrap=name in ("severity", "code"))
    for found in report.findings:
        table.add_row(
            Text(found.severity.value, style=_STYLES[found.severity]),
            Text(found.code),
            Text(found.where),
            Text.assemble(found.meaning, ("\n→ ", "dim"), found.todo),
        )
    out.print(table)
