"""What the keeper offers to its API. All methods are thread-safe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from vestal.fleet.canary.requests import CanaryRequest, CanaryStatus, Command
from vestal.fleet.desired import Desired
from vestal.fleet.status import Event, PlanReport, Revision, Source, Status


class KeeperControl(Protocol):
    """The keeper, as its HTTP API and `vestal serve` use it."""

    def status(self) -> Status:
        """Return the current state."""

    def desired(self) -> Desired:
        """Return what is desired now."""

    def plan(self, desired: Desired) -> PlanReport:
        """Return the plan for a desired state, without changing anything."""

    def apply(self, desired: Desired, source: Source) -> Revision:
        """Change what is desired. Returns at once; the keeper works on it in the background.

        Versions that were rejected are tried again.

        Raises:
            VestalError: the state cannot be written (full disk), or the server is stopping.
        """

    def rollback(self, model: str | None, source: Source) -> Revision:
        """Desire the previous version of a model again, or the whole previous revision.

        Raises:
            UsageError: there is nothing to go back to.
        """

    def revisions(self) -> list[Revision]:
        """Return the history, newest first."""

    def events(self, after: int, timeout: float) -> Iterator[Event]:
        """Yield events with a number above `after`; wait for new ones for at most `timeout` s."""

    def canaries(self) -> list[CanaryStatus]:
        """Describe the canaries that run, and the last one of each other model."""

    def start_canary(self, request: CanaryRequest) -> CanaryStatus:
        """Start a canary. Returns at once; the keeper works on it in the background.

        Raises:
            UsageError: it cannot be started.
            VestalError: there is not enough memory, or the state cannot be written.
        """

    def change_canary(self, model: str, command: Command) -> CanaryStatus:
        """Pause, resume or abort the canary of a model.

        Raises:
            UsageError: none is running, or it is in that state already.
        """

    def ready(self) -> tuple[bool, list[str]]:
        """Whether every required version is READY and verified, and the reasons if not."""

    def metrics(self) -> str:
        """Return the keeper's metrics and the gateway's in Prometheus' text format."""

    def request_stop(self) -> None:
        """Stop the server: not ready, drain, stop."""
