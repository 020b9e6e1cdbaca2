"""`vestal status`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from vestal.cli.output import Json, count_of, out, print_json
from vestal.cli.plan_output import format_memory, format_seconds, new_table

if TYPE_CHECKING:
    from vestal.fleet.status import (
        GatewayStatus,
        ModelStatus,
        Status,
        Traffic,
        VersionStatus,
        WorkerCounts,
    )

_REFRESH_SECONDS = 1.0
_STYLES = {
    "ready": "green",
    "degraded": "yellow",
    "failed": "bold red",
    "rejected": "red",
    "draining": "dim",
}


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh every second until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show versions, workers, traffic and memory, and what the keeper is doing.

    Rates, errors and times are those of the last minute.
    """
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.project import Project

    client = KeeperClient(Project.here())
    if not watch:
        _print(client.status(), as_json)
        return
    try:
        if as_json or not out.is_terminal:
            while True:
                _print(client.status(), as_json)
                time.sleep(_REFRESH_SECONDS)
        with Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(render(client.status()), refresh=True)
                time.sleep(_REFRESH_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _print(status: Status, as_json: bool) -> None:
    if as_json:
        print_json(status.model_dump(mode="json"))
    else:
        out.print(render(status))


def render(status: Status) -> RenderableType:
    """The status as a headline, a table of versions, and sentences about what is not normal."""
    right = ("ready", "queue", "req/s", "errors", "p50", "p99", "memory")
    table = new_table("model", "version", "state", *right, right=right)
    table.padding = (0, 1, 0, 0)  # ten columns in a terminal of 80
    for column in table.columns:
        column.no_wrap = column.header in right
    for model in status.models:
        for each in model.versions:
            table.add_row(*_cells(model, each))
    parts: list[RenderableType] = [_headline(status)]
    if table.row_count:
        parts.append(table)
    else:
        parts.append(Text("No model is served. `vestal register ARCHIVE` adds one."))
    parts += _sentences(status)
    if status.gateway is not None:
        parts += _gateway(status.gateway)
    return Group(*parts)


def _headline(status: Status) -> Text:
    if status.phase != "running":
        state = (f"{status.phase.capitalize()}", "yellow")
    elif status.ready:
        state = ("Ready", "bold green")
    else:
        state = ("Not ready", "bold red")
    work = "" if status.converged else ", the keeper is working"
    memory = (
        f"workers use {format_memory(status.memory_used)}, {format_memory(status.memory_free)} free"
    )
    line = Text.assemble(state, f" (revision {status.revision}{work}); {memory}")
    if status.torchserve_restarts:
        times = "once" if status.torchserve_restarts == 1 else f"{status.torchserve_restarts} times"
        line.append(f"; TorchServe was restarted {times}", "yellow")
    return line


def _gateway(gateway: GatewayStatus) -> Iterator[Text]:
    if gateway.running:
        line = Text(f"Gateway: {gateway.url}")
        if gateway.restarts:
            times = "once" if gateway.restarts == 1 else f"{gateway.restarts} times"
            line.append(f"; Envoy was restarted {times}", "yellow")
        yield line
    else:
        yield Text(f"Gateway: {gateway.url} is not running", "red")
    if gateway.problem:
        yield Text(f"Gateway: {gateway.problem}", "red")


def _cells(model: ModelStatus, version: VersionStatus) -> tuple[Text, ...]:
    traffic = version.traffic
    name = f"{version.version} *" if version.default else version.version
    return (
        Text(model.name),
        Text(name, "bold" if version.default else ""),
        Text(version.state, _STYLES.get(version.state, "yellow")),
        Text(_workers(version.workers), "" if _complete(version.workers) else "yellow"),
        Text(str(version.pending)),
        Text(f"{traffic.rate:.1f}"),
        Text(_errors(traffic), "red" if traffic.error_rate else ""),
        Text(format_seconds(traffic.p50)),
        Text(format_seconds(traffic.p99)),
        Text(format_memory(version.memory)),
    )


def _errors(traffic: Traffic) -> str:
    return f"{traffic.error_rate:.1%}" if traffic.rate > 0 else ""


def _workers(counts: WorkerCounts) -> str:
    return f"{counts.ready}/{counts.desired}"


def _complete(counts: WorkerCounts) -> bool:
    return counts.ready >= counts.desired and not counts.given_up


def _sentences(status: Status) -> Iterator[Text]:
    if any(each.default for model in status.models for each in model.versions):
        yield Text("* default version", "dim")
    for model in status.models:
        if model.canary:
            yield Text(f"{model.name}: {model.canary}")
        if model.doing:
            yield Text(f"{model.name}: {model.doing}", "yellow")
        if model.problem:
            yield Text(f"{model.name}: {model.problem}", "red")
        if model.previous is not None:
            text = f"{model.name}: `vestal rollback {model.name}` returns to {model.previous}"
            yield Text(text, "dim")
        for each in model.versions:
            subject = f"{model.name} {each.version}"
            if each.workers.given_up:
                number = count_of(each.workers.given_up, "worker")
                yield Text(f"{subject}: TorchServe does not restart {number} any more", "red")
            if each.reason and each.reason not in (model.problem or ""):
                yield Text(f"{subject} {each.state}: {each.reason}", "red")
