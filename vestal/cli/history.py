"""`vestal history`."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.text import Text

from vestal.cli.output import Json, out, print_json, shortened
from vestal.cli.plan_output import new_table

_STYLES = {"done": "green", "failed": "red", "superseded": "dim"}
_REASON = 300


def history(
    number: Annotated[
        int, typer.Option("-n", min=1, help="Number of revisions to print, newest first.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """Print the changes of what should run: when, by whom, and their outcome."""
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.project import Project

    revisions = KeeperClient(Project.here()).revisions()[:number]
    if as_json:
        print_json([each.model_dump(mode="json") for each in revisions])
        return
    if not revisions:
        out.print("No change yet: the server runs what it was started with.")
        return
    table = new_table("revision", "time", "user", "command", "change", "outcome")
    for each in revisions:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.time))
        outcome = each.outcome or "in progress"
        change = Text(", ".join(each.changes))
        command = each.source.command.removeprefix("vestal ")
        style = _STYLES.get(outcome, "yellow")
        cells = (str(each.number), when, each.source.user, command)
        table.add_row(*map(Text, cells), change, Text(outcome, style))
    out.print(table)
    for each in revisions:
        if each.outcome == "failed" and each.reason:
            reason = shortened(each.reason, _REASON)
            out.print(Text(f"{each.number} failed: {reason}", style="red"), soft_wrap=True)
