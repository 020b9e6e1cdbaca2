"""The history of the desired state. A start by arguments is stored only before the first change."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import Literal

from vestal.errors import UsageError
from vestal.fleet.canary.states import Run
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.state import StateStore
from vestal.fleet.status import Revision, Source

START = "vestal serve"
"""The source of a desired state that only `vestal serve` has made."""


def user_name() -> str:
    """Return the name of the current user, or their number without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


class Revisions:
    """Thread-safe, as the store is; `number`: of the newest revision, 0 for one not stored."""

    def __init__(self, store: StateStore, *, stored: bool) -> None:
        self._store, self._stored = store, stored
        newest = store.revisions[0].number if store.revisions else 0
        self.number = newest if stored else 0

    def all(self) -> list[Revision]:
        """Return all revisions, newest first."""
        return self._store.revisions

    def add(
        self, before: Desired, desired: Desired, source: Source, canary: Run | None = None
    ) -> Revision:
        """Store a change, and the canary that makes it.

        Raises:
            VestalError: it cannot be written.
        """
        if not self._stored:
            first = self._store.add_revision(before, Source(command=START, user=user_name()))
            self._store.finish_revision(first.number, "done")
            self._stored = True
        revision = self._store.add_revision(desired, source, canary)
        self.number = revision.number
        return revision

    def finish(
        self, number: int, outcome: Literal["done", "failed"], reason: str | None = None
    ) -> None:
        """Store the outcome of a revision."""
        if number:
            self._store.finish_revision(number, outcome, reason)

    def before(self, desired: Desired, model: str | None, served: Sequence[str] = ()) -> Desired:
        """Return the desired state before the last change of a model, or of anything.

        Args:
            served: versions that are known to have served the model, the latest first. A version
                that was only desired and has failed is not returned to.

        Raises:
            UsageError: there is none.
        """
        good = [each.desired for each in self._store.revisions if each.outcome != "failed"]
        if model is None:
            found = next((each for each in good if each != desired), None)
        else:
            found = self._before_model(desired, model, served, good)
        if found is None:
            what = f"earlier version of {model}" if model else "earlier state"
            raise UsageError(f"there is no {what} in the history; `vestal history` lists it")
        return found

    def _before_model(
        self, desired: Desired, model: str, served: Sequence[str], good: Sequence[Desired]
    ) -> Desired | None:
        now = desired.models.get(model)

        def targets(states: Sequence[Desired]) -> list[ModelTarget]:
            found = [each.models[model] for each in states if model in each.models]
            return [each for each in found if now is None or each.default != now.default]

        everything = targets([each.desired for each in self._store.revisions])
        known = [each for version in served for each in everything if each.default == version]
        candidates = [*known, *targets(good)]
        if not candidates:
            return None
        # A canary in the history may be the version that is being rolled back.
        before = [each for each in candidates if each.default == candidates[0].default]
        target = next((each for each in before if each.canary is None), candidates[0])
        target = target.model_copy(update={"canary": None, "shadow": None})
        return desired.model_copy(update={"models": {**desired.models, model: target}})
