"""Follow the keeper's work on a revision on the terminal, to its outcome."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer
from rich.status import Status as Spinner
from rich.text import Text

from vestal.cli.output import err
from vestal.errors import VestalError

if TYPE_CHECKING:
    from vestal.fleet.keeper_client import KeeperClient
    from vestal.fleet.status import Event, RevisionSummary

_SHOWN = ("done", "failed", "repair", "scale", "note")
_STYLES = {"done": "green", "failed": "bold red", "rejected": "bold red", "repair": "yellow"}


class ProgressPrinter:
    """Prints events on stderr: the current step in a spinner, the finished ones as lines.

    Outside a terminal, there is no spinner; the start of each step is a line as well.
    """

    def __init__(self) -> None:
        self._spinner = Spinner("Waiting for the keeper", console=err)

    def __enter__(self) -> ProgressPrinter:
        if err.is_terminal:
            self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._spinner.stop()

    def show(self, event: Event) -> None:
        """Print one event."""
        line = _line(event)
        if event.kind in _SHOWN or (event.kind == "started" and not err.is_terminal):
            clock = time.strftime("%H:%M:%S", time.localtime(event.time))
            err.print(Text.assemble((f"{clock}  ", "dim"), line), soft_wrap=True)
        elif event.kind in ("started", "progress"):
            self._spinner.update(line)

    def notice(self, text: str) -> None:
        """Print a sentence about the connection."""
        err.print(Text(text, style="yellow"), soft_wrap=True)


def follow(client: KeeperClient, revision: RevisionSummary, seconds: float) -> RevisionSummary:
    """Print the progress of a revision and return it with its outcome.

    Raises:
        VestalError: the time limit has passed, or the server is gone.
        typer.Exit: Ctrl-C was pressed.
    """
    from vestal.fleet.following import Follower

    try:
        with ProgressPrinter() as printer:
            return Follower(client, printer.show, printer.notice, seconds).wait(revision.number)
    except KeyboardInterrupt:
        err.print(
            f"Stopped watching. The keeper continues with revision {revision.number}: "
            "`vestal status --watch` shows its progress, `vestal rollback` undoes the change.",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None


def raise_unless_done(revision: RevisionSummary) -> None:
    """Raise VestalError with the reason if a revision failed or was superseded."""
    if revision.outcome == "done":
        return
    if revision.outcome == "superseded":
        raise VestalError(
            f"revision {revision.number} was superseded by a newer change before it was done; "
            "`vestal history` shows both"
        )
    from vestal.project import Project

    reason, logs = revision.reason or f"revision {revision.number} failed", Project.here().logs
    raise VestalError(reason if str(logs) in reason else f"{reason} (logs: {logs})")


def _line(event: Event) -> Text:
    subject = " ".join(filter(None, (event.model, event.version)))
    # The text often begins with the model itself.
    prefix = "" if not subject or event.text.startswith(subject) else f"{subject}: "
    return Text(f"{prefix}{event.text}", style=_STYLES.get(event.kind, ""))
