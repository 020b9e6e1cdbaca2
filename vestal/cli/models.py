"""`vestal models`."""

from __future__ import annotations

from rich.text import Text

from vestal.cli.output import Json, out, print_json
from vestal.cli.plan_output import new_table


def models(as_json: Json = False) -> None:
    """List the models and versions that the server of this project serves."""
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.project import Project

    status = KeeperClient(Project.here()).status()
    rows = [
        {
            "model": model.name,
            "version": each.version,
            "default": each.default,
            "state": each.state,
            "workers": each.workers.ready,
            "archive": each.archive,
        }
        for model in status.models
        for each in model.versions
    ]
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("No model is served. `vestal register ARCHIVE` adds one.")
        return
    table = new_table("model", "version", "state", "workers", "archive", right=("workers",))
    for row in rows:
        version = f"{row['version']} (default)" if row["default"] else str(row["version"])
        cells = (row["model"], version, row["state"], row["workers"], row["archive"])
        table.add_row(*(Text(str(cell)) for cell in cells))
    out.print(table)
