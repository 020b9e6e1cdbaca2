"""`vestal load`."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vestal.cli.arguments import ServedModel, Url, Version
from vestal.cli.inputs import expand
from vestal.cli.output import Json, count_of, err, out, print_json
from vestal.cli.served import ServedName, not_served, served_model
from vestal.cli.waiting import wait_for_server
from vestal.client import Client, NoAddress, NotFound
from vestal.client.settings import resolve
from vestal.errors import VestalError
from vestal.loadtest.run import LoadResult, run_load

START_SECONDS = 120.0


def load(
    model: ServedModel,
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="Files or folders of files to send.")
    ],
    version: Version = None,
    users: Annotated[int, typer.Option(min=1, max=1000, help="Number of concurrent users.")] = 8,
    seconds: Annotated[
        int, typer.Option(min=1, max=3600, help="Duration of the test, in seconds.")
    ] = 20,
    out_: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to create for the report. Default: load/TIME."),
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Run a load test of a served model with Locust and write a report."""
    if url is None:
        wait_for_server(START_SECONDS)
    with Client(url) as client:
        served = served_model(client, model, version)
        _check_served(client, served)
    files = expand(inputs)
    folder = out_ or Path("load") / datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    addresses, tokens = resolve(url, None, None, None, None)
    with err.status(f"{count_of(users, 'user')} for {seconds} s"):
        result = run_load(
            addresses.of("inference"),
            str(served),
            files,
            users=users,
            seconds=seconds,
            out=folder,
            token=tokens.get("inference"),
        )
    if as_json:
        print_json({**asdict(result), "report": str(result.report)})
    else:
        print_result(result, users)
    if result.failures:
        raise typer.Exit(1)


def _check_served(client: Client, served: ServedName) -> None:
    """Raise VestalError, before any traffic, for a model that cannot answer."""
    try:
        description = client.describe(served.name, served.version)
    except NoAddress:  # --url names the inference API only
        return
    except NotFound as error:
        raise not_served(client, served, error) from None
    if not description.ready_workers:
        raise VestalError(
            f"{description.name} {description.version} has no worker that is READY. Wait until one "
            f'has loaded, or start one with client.scale("{description.name}", 1)'
        )


def print_result(result: LoadResult, users: int) -> None:
    """Print the table of a load test."""
    table = Table(box=None, pad_edge=False)
    for column in ("users", "requests", "failures", "requests/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(column, justify="right")
    times = [f"{value:.0f}" for value in (result.p50, result.p95, result.p99)]
    failed = sum(result.failures.values())
    rate = f"{result.requests_per_second:.0f}"
    table.add_row(str(users), f"{result.requests:,}", f"{failed:,}", rate, *times)
    out.print(table)
    for reason, count in result.failures.items():
        out.print(f"[red]{count:,} x[/] {escape(reason)}")
    out.print(f"Report: {os.path.relpath(result.report)}")
