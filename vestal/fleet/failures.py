"""Why a step did not succeed.

VestalError
 └─ StepError
     ├─ VersionFailed     the version is at fault: it is rejected
     ├─ StepFailed        something else is: the step is tried again later
     └─ Interrupted       TorchServe ended, the server is stopping, or the target has changed
"""

from __future__ import annotations

from collections.abc import Sequence

from vestal.errors import VestalError


class StepError(VestalError):
    """A step did not succeed; what it did is undone.

    Attributes:
        reason: one sentence.
    """

    def __init__(self, reason: str, log: Sequence[str] = ()) -> None:
        """`log`: a heading with the place of the log, and its last lines about the version."""
        super().__init__("\n".join([reason, *log]))
        self.reason = reason
        self.place = log[0].removeprefix("End of ").rstrip(":") if log else None

    @property
    def summary(self) -> str:
        """The reason, and the place of the log."""
        return f"{self.reason} (log: {self.place})" if self.place else self.reason


class VersionFailed(StepError):
    """A version does not load, predicts wrongly, or is worse than the previous one."""


class StepFailed(StepError):
    """A step failed for a reason outside the version."""


class Interrupted(StepError):
    """A step was given up because the circumstances have changed; nothing was undone."""
