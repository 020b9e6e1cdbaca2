"""What the keeper's parts share: what is desired, what is known, and the events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vestal.client import Client
from vestal.configuration.ports import Endpoint
from vestal.errors import VestalError
from vestal.fleet.archive_checks import ArchiveChecks
from vestal.fleet.canary.states import Run
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.event_log import EventLog
from vestal.fleet.fence import Management
from vestal.fleet.gatekeeper import Gatekeeper
from vestal.fleet.judging import TrafficJudge
from vestal.fleet.knowledge import Knowledge
from vestal.fleet.revisions import Revisions
from vestal.fleet.runner import Runner
from vestal.fleet.status import EventKind, Revision, Source
from vestal.fleet.steps import Step
from vestal.fleet.worker_counts import WorkerCounts

Listener = Callable[[EventKind, str, Step | None], None]
"""Receives events: kind, text, step."""


@dataclass
class Fleet:
    """The models of one server. `lock` protects `desired`, `revision` and `stopping`.

    Attributes:
        starting: the server is not ready for the first time yet: any failure rejects a version.
        stopping: no more steps are started, and those that run end at the next safe point.
        thorough: check archives before TorchServe gets them.
        errors: why versions were rejected, with their logs.
        fatal: an error that ends the start.
        converged: nothing is left to do.
        wake: set to end the pause of the loop.
    """

    client: Client
    management: Management
    store: Path
    runner: Runner
    knowledge: Knowledge
    revisions: Revisions
    judge: TrafficJudge
    gatekeeper: Gatekeeper
    worker_counts: WorkerCounts
    listener: Listener
    desired: Desired
    starting: bool = True
    stopping: bool = False
    thorough: bool = False
    errors: dict[tuple[str, str], VestalError] = field(default_factory=dict)
    fatal: Exception | None = None
    events: EventLog = field(default_factory=EventLog)
    archive_checks: ArchiveChecks = field(default_factory=ArchiveChecks)
    lock: threading.RLock = field(default_factory=threading.RLock)
    converged: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)

    def target(self, name: str) -> ModelTarget | None:
        """Return what is desired of a model; None if it should not run."""
        with self.lock:
            return self.desired.models.get(name)

    def change(
        self,
        desired: Desired,
        source: Source,
        *,
        thorough: bool,
        again: bool,
        canary: Run | None = None,
    ) -> Revision:
        """Store and adopt a desired state.

        Args:
            again: try rejected versions again.
            canary: stored together with it.

        Raises:
            VestalError: it cannot be stored, or the server is stopping.
        """
        with self.lock:
            if self.stopping:
                raise VestalError("the server is stopping; the change was not made")
            revision = self.revisions.add(self.desired, desired, source, canary)
            self.knowledge.start_storing()
            if again:
                self.knowledge.forgive()
                self.errors.clear()
            self.desired, self.thorough = desired, thorough
            self.converged.clear()
        self.wake.set()
        return revision

    def report(self, kind: EventKind, text: str, step: Step | None = None) -> None:
        """Add an event."""
        self.events.add(
            kind,
            text,
            revision=self.revisions.number,
            model=step.model if step else None,
            version=step.version if step else None,
            step=type(step).__name__.lower() if step else None,
        )
        self.listener(kind, text, step)


def own_client(endpoints: Sequence[Endpoint], key_file: Path | None) -> Client:
    """Return a client without retries: the keeper must notice at once that TorchServe has ended."""
    inference, management, metrics = (endpoint.url for endpoint in endpoints[:3])
    return Client(
        inference,
        management=management,
        metrics=metrics,
        key_file=key_file,
        retries=0,
        hedge=False,
    )
