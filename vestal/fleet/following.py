"""Follow the work on a revision to its end, across restarts of the server."""

from __future__ import annotations

import time
from collections.abc import Callable

from vestal.client.errors import ConnectionFailed
from vestal.errors import VestalError
from vestal.fleet.keeper_client import KeeperClient, KeeperLost
from vestal.fleet.status import Event, RevisionSummary

_SLICE_SECONDS = 5.0
_RETURN_SECONDS = 60.0
"""Time for a server that is gone to come back: the keeper restores it, or a supervisor does."""
_POLL_SECONDS = 0.5


class StillWorking(VestalError):
    """The time limit has passed, and the keeper is still working."""


class Follower:
    """Reads events until a revision has an outcome.

    Args:
        on_event: receives the events of the revision.
        on_notice: receives a sentence when the connection is lost and when it is back.
        seconds: time limit.
    """

    def __init__(
        self,
        client: KeeperClient,
        on_event: Callable[[Event], None],
        on_notice: Callable[[str], None],
        seconds: float,
    ) -> None:
        self._client, self._on_event, self._on_notice = client, on_event, on_notice
        self._seconds = seconds
        self._after = 0
        self._instance = client.instance

    def wait(self, number: int) -> RevisionSummary:
        """Return the revision when it has an outcome.

        Raises:
            StillWorking: it has none within the time limit.
            KeeperLost: the server is gone and does not return.
        """
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                # The outcome is read before the events, so that none of them is missed.
                revision = self._find(number)
                left = max(0.0, min(_SLICE_SECONDS, deadline - time.monotonic()))
                self._read_events(number, 0.0 if revision.outcome else left)
            except KeeperLost as error:
                self._reconnect(number, error)
                continue
            if revision.outcome is not None:
                return revision
            if time.monotonic() >= deadline:
                raise StillWorking(
                    f"revision {number} is not done after {self._seconds:g} s (see --timeout). The "
                    "keeper goes on; `vestal status` shows what it is doing, `vestal rollback` "
                    "undoes the change"
                )

    def _find(self, number: int) -> RevisionSummary:
        for revision in self._client.revisions():
            if revision.number == number:
                return revision
        raise VestalError(f"revision {number} is not in the history of the server any more")

    def _read_events(self, number: int, seconds: float) -> None:
        if self._client.instance != self._instance:  # events are counted from 1 again
            self._instance, self._after = self._client.instance, 0
        for event in self._client.events(self._after, seconds):
            self._after = event.number
            if event.revision == number:
                self._on_event(event)
            if event.kind in ("converged", "rejected") and event.revision >= number:
                return

    def _reconnect(self, number: int, error: KeeperLost) -> None:
        self._on_notice("the connection to the server is lost; waiting for it to return")
        deadline = time.monotonic() + _RETURN_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            try:
                self._client.status()
            except (KeeperLost, ConnectionFailed):
                continue
            self._on_notice("the server has returned")
            return
        raise KeeperLost(
            f"the server did not return within {_RETURN_SECONDS:g} s. Revision {number} is stored, "
            f"and the next `vestal serve` continues with it. ({error})"
        )
