"""Follow a canary on the terminal, and print its state."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer
from rich.status import Status as Spinner
from rich.text import Text

from vestal.cli.output import err, out, print_json
from vestal.cli.plan_output import format_seconds, new_table
from vestal.errors import VestalError

if TYPE_CHECKING:
    from vestal.fleet.canary.requests import CanaryStatus
    from vestal.fleet.canary.states import Entry
    from vestal.fleet.keeper_client import KeeperClient

_POLL_SECONDS = 0.5
_RETURN_SECONDS = 120.0
"""Time for a server that is gone to come back: a supervisor starts it again."""


def follow(client: KeeperClient, started: CanaryStatus) -> CanaryStatus:
    """Print what happens to a canary, and return it when it has ended.

    Raises:
        VestalError: the server is gone, or another canary has taken its place.
        typer.Exit: Ctrl-C was pressed.
    """
    printed: list[Entry] = []
    status, spinner = started, Spinner("", console=err)
    try:
        if err.is_terminal:
            spinner.start()
        while True:
            for entry in status.log[len(printed) :]:
                err.print(_line(entry), soft_wrap=True)
            printed = status.log
            if status.ended:
                return status
            spinner.update(Text(_headline(status)))
            time.sleep(_POLL_SECONDS)
            status = _read(client, status)
            if status.log[:1] != started.log[:1]:
                raise VestalError(f"another canary of {status.model} was started meanwhile")
    except KeyboardInterrupt:
        spinner.stop()
        err.print(
            f"Stopped watching. The keeper goes on: `vestal canary {status.model}` shows the "
            "canary, and --pause, --resume and --abort change it.",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    finally:
        spinner.stop()


def raise_unless_promoted(status: CanaryStatus) -> None:
    """Raise VestalError with the reason unless the version is the default version now."""
    if status.state != "promoted":
        name = f"{status.model} {status.version}"
        raise VestalError(f"{name} did not become the default version: {status.reason}")


def print_status(status: CanaryStatus, as_json: bool) -> None:
    """Print the state of a canary, its traffic, and what happened."""
    if as_json:
        print_json(status.model_dump(mode="json"))
        return
    out.print(Text(_headline(status), "bold"), soft_wrap=True)
    if status.traffic:
        table = new_table(
            "version", "requests", "failed", "p99", right=("requests", "failed", "p99")
        )
        for each in status.traffic:
            numbers = f"{each.requests:,}", f"{each.failures:,}", format_seconds(each.p99)
            table.add_row(*map(Text, (each.version, *numbers)))
        out.print(table)
    for entry in status.log:
        out.print(_line(entry), soft_wrap=True)


def _read(client: KeeperClient, last: CanaryStatus) -> CanaryStatus:
    """Read the state; wait for a server that is being started again."""
    from vestal.client.errors import ConnectionFailed
    from vestal.fleet.keeper_client import KeeperLost

    deadline, lost = time.monotonic() + _RETURN_SECONDS, False
    while True:
        try:
            status = client.canary(last.model)
        except (KeeperLost, ConnectionFailed):
            if time.monotonic() >= deadline:
                raise
            if not lost:
                text = "the connection to the server is lost; waiting for it to return"
                err.print(Text(text, "yellow"), soft_wrap=True)
            lost = True
            time.sleep(_POLL_SECONDS)
            continue
        if lost:
            err.print(Text("the server has returned", "yellow"), soft_wrap=True)
        return status


def _headline(status: CanaryStatus) -> str:
    name = f"{status.model} {status.version}"
    if status.ended:
        return f"{name}: {status.state}" + (f" ({status.reason})" if status.reason else "")
    if status.state == "promoting":
        return f"{name} is becoming the default version"
    if status.state == "loading":
        return f"{name} is being loaded for {status.weight:g} % of the requests"
    state = "paused, " if status.state == "paused" else ""
    text = f"{name} at {status.weight:g} % ({state}{status.seconds:.0f} s)"
    return f"{text}: {status.waiting}" if status.waiting else text


def _line(entry: Entry) -> Text:
    clock = time.strftime("%H:%M:%S", time.localtime(entry.time))
    return Text.assemble((f"{clock}  ", "dim"), entry.text)
