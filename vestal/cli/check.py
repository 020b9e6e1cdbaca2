"""`vestal check`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vestal.cli.output import Json, count_of, err, out, print_json
from vestal.errors import UsageError, VestalError

if TYPE_CHECKING:
    from vestal.checking import Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def check(
    archives: Annotated[
        list[str],
        typer.Argument(
            metavar="ARCHIVE",
            help="Paths of archives (.mar, .tar.gz or unpacked folder), or their names in the "
            "model store: mnist-1.0, or mnist if there is one version.",
        ),
    ],
    run: Annotated[
        bool | None,
        typer.Option(
            "--run/--no-run",
            help="Also load the archive in a process of its own and predict its sample. This runs "
            "the archive's code. Default: only for archives that this project packed.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Time limit for --run, in seconds.")
    ] = 120.0,
    memory: Annotated[float, typer.Option(min=1, help="Memory limit for --run, in GB.")] = 8.0,
    as_json: Json = False,
) -> None:
    """Check archives for errors before TorchServe loads them."""
    if not (math.isfinite(memory) and math.isfinite(timeout)):
        raise UsageError(f"--memory {memory:g} and --timeout {timeout:g}: expected finite numbers")
    reports: list[Report] = []
    failed: list[VestalError] = []
    for name in archives:
        with err.status(f"Checking {Path(name).name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from packages that read the archive
            from vestal.checking.checker import check as check_archive
            from vestal.checking.checker import is_ours
            from vestal.mar.store import find_stored
            from vestal.project import Project

            project, archive = Project.here(), Path(name)
            try:
                if "/" not in name and not (archive.exists() or archive.is_symlink()):
                    archive = find_stored(project.model_store, name)
                with_run = is_ours(project, archive) if run is None else run
                size = int(memory * 1e9)
                reports.append(check_archive(archive, run=with_run, seconds=timeout, memory=size))
            except VestalError as error:  # the other archives are still checked
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
    from vestal.mar.findings import printable

    counts = [
        count_of(number, name)
        for name in _STYLES
        if (number := sum(found.severity == name for found in report.findings))
    ]
    how = "read and run" if report.ran else "read, not run"
    # Text, because rich would interpret markup in a string from an archive.
    title = Text.assemble(
        (printable(str(report.archive), 4000), "bold"), f"  {', '.join(counts) or 'good'} ({how})"
    )
    out.print(title)
    if not report.findings:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name in ("severity", "code", "where", "finding and fix"):
        table.add_column(name, overflow="fold", no_wrap=name in ("severity", "code"))
    for found in report.findings:
        table.add_row(
            Text(found.severity.value, style=_STYLES[found.severity]),
            Text(found.code),
            Text(found.where),
            Text.assemble(found.meaning, ("\n→ ", "dim"), found.todo),
        )
    out.print(table)
