"""What a step needs, besides itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vestal.client import Client
from vestal.fleet.actual import Actual, VersionState
from vestal.fleet.archive_checks import ArchiveChecks
from vestal.fleet.desired import ModelTarget
from vestal.fleet.fence import Management
from vestal.fleet.loading import Loading
from vestal.fleet.settling import Verdict
from vestal.fleet.steps import Settle, Step
from vestal.server.logs import Logs

_READY_SECONDS = 120.0
"""Time limit for a version that is not desired any more."""


@dataclass(frozen=True)
class Work:
    """What a step needs.

    Attributes:
        actual: the state before the step.
        target: None if the model is not desired any more.
        logs: of TorchServe, from the registration of the step's version on.
        checks: for the archive; None: it is not checked before TorchServe gets it.
        interrupt: raises Interrupted if the step must end at this point.
        judge: judges the step's version, as a new default version, by its traffic.
        note: reports something unusual.
        withdraw: makes the gateway send no more requests to the step's version.
        restore: takes that back.
    """

    client: Client
    management: Management
    store: Path
    actual: Actual
    target: ModelTarget | None
    logs: Logs
    checks: ArchiveChecks | None
    interrupt: Callable[[], None]
    judge: Callable[[Settle], Verdict]
    note: Callable[[str], None]
    withdraw: Callable[[], None]
    restore: Callable[[], None]

    def version(self, step: Step) -> VersionState:
        """Return the state of the step's version."""
        return self.actual.models[step.model].versions[step.version]

    def loading(self, step: Step) -> Loading:
        """Return what is needed to load the step's version."""
        seconds = self.target.swap.ready_seconds if self.target else _READY_SECONDS
        now = time.monotonic()
        return Loading(
            self.client, step.model, step.version, self.logs, now, now + seconds, self.interrupt
        )
