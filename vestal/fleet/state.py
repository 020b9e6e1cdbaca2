"""`.vestal/state/`: what the keeper knows after a restart.

    state.json              the history, and what is known of each model, canary and archive
    state.json.previous     the file before it, in case of damage
    desired/SHA256.json     a desired state; revisions with equal ones share the file

A change is on the disk before it takes effect. state.json is replaced as a whole, after the desired
state that it names has been written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from vestal.errors import VestalError
from vestal.fleet.actual import ModelState, Previous
from vestal.fleet.canary.states import Run
from vestal.fleet.desired import Desired
from vestal.fleet.state_folder import StateFolder
from vestal.fleet.status import Revision, Source

MOST_REVISIONS = 100
MOST_BYTES = 64 << 20
"""Size of the desired states in the history altogether; probes make them large."""

_MOST_FOOTPRINTS = 1000


class _Model(BaseModel):
    """The fields of a ModelState that survive a restart."""

    serving: str | None = None
    serving_archive: tuple[str, str] | None = None
    previous: Previous | None = None
    rejected: dict[str, str] = Field(default_factory=dict)


class _StoredRevision(BaseModel):
    """A revision. `desired`: digest of its desired state; `size`: of that in bytes."""

    number: int
    time: float
    source: Source
    desired: str
    size: int
    outcome: Literal["done", "failed", "superseded"] | None = None
    reason: str | None = None


class _Content(BaseModel):
    revisions: list[_StoredRevision] = Field(default_factory=list)
    models: dict[str, _Model] = Field(default_factory=dict)
    canaries: dict[str, Run] = Field(default_factory=dict)
    footprints: dict[str, int] = Field(default_factory=dict)


class StateStore:
    """The stored state of one project. Thread-safe; one process at a time may have it open.

    Methods that change it raise VestalError if the disk is full or cannot be written to; the state
    is then as it was before.

    Attributes:
        notices: sentences for the user about damaged files, and what was restored instead.

    Raises:
        VestalError: the files cannot be read, or another version of Vestal has written them.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._folder = StateFolder(folder)
        content, self.notices = self._folder.read()
        try:
            self._content = _Content.model_validate(content)
        except ValidationError as error:
            raise VestalError(
                f"{folder}/state.json has unexpected content ({error.errors()[0]['msg']}). Move "
                "the folder away to start afresh"
            ) from None
        self._desired: dict[str, Desired] = {}
        self._load_desired()
        self._referenced_before = {each.desired for each in self._content.revisions}

    @property
    def desired(self) -> Desired | None:
        """The newest desired state; None before the first."""
        with self._lock:
            revisions = self._content.revisions
            return self._desired[revisions[-1].desired] if revisions else None

    @property
    def revisions(self) -> list[Revision]:
        """The history, newest first."""
        with self._lock:
            return [self._revision(each) for each in reversed(self._content.revisions)]

    def add_revision(self, desired: Desired, source: Source, canary: Run | None = None) -> Revision:
        """Store a new desired state; a revision without an outcome becomes `superseded`.

        Args:
            canary: stored in the same moment.
        """
        text = desired.model_dump_json().encode()
        with self._lock:
            changed = self._content.model_copy(deep=True)
            for each in changed.revisions:
                each.outcome = each.outcome or "superseded"
            number = changed.revisions[-1].number + 1 if changed.revisions else 1
            try:
                digest = self._folder.write_desired(text)
                added = _StoredRevision(
                    number=number, time=time.time(), source=source, desired=digest, size=len(text)
                )
                changed.revisions = _bounded([*changed.revisions, added])
                if canary is not None:
                    changed.canaries[canary.model] = canary
                self._write(changed)
            except VestalError:
                self._remove_unreferenced()
                raise
            self._desired[digest] = desired
            self._remove_unreferenced()
            return self._revision(added)

    def finish_revision(
        self, number: int, outcome: Literal["done", "failed"], reason: str | None = None
    ) -> None:
        """Store the outcome of a revision; one that has an outcome keeps it."""
        with self._lock:
            changed = self._content.model_copy(deep=True)
            for each in changed.revisions:
                if each.number == number and each.outcome is None:
                    each.outcome, each.reason = outcome, reason
            self._write(changed)

    @property
    def models(self) -> Mapping[str, ModelState]:
        """What is known of each model: a state without versions and without a default."""
        with self._lock:
            return {
                name: ModelState(
                    serving=each.serving,
                    serving_archive=each.serving_archive,
                    previous=each.previous,
                    rejected=dict(each.rejected),
                )
                for name, each in self._content.models.items()
            }

    def save_model(self, name: str, state: ModelState) -> None:
        """Store the part of a model's state that `models` returns."""
        record = _Model(
            serving=state.serving,
            serving_archive=state.serving_archive,
            previous=state.previous,
            rejected=dict(state.rejected),
        )
        with self._lock:
            models = {**self._content.models, name: record}
            self._write(self._content.model_copy(update={"models": models}))

    def forget_model(self, name: str) -> None:
        """Remove what is stored of a model that does not run any more."""
        with self._lock:
            models = {key: each for key, each in self._content.models.items() if key != name}
            self._write(self._content.model_copy(update={"models": models}))

    @property
    def canaries(self) -> Mapping[str, Run]:
        """The last canary of each model."""
        with self._lock:
            return dict(self._content.canaries)

    def save_canary(self, canary: Run) -> None:
        """Store the canary of a model."""
        with self._lock:
            canaries = {**self._content.canaries, canary.model: canary}
            self._write(self._content.model_copy(update={"canaries": canaries}))

    @property
    def footprints(self) -> Mapping[str, int]:
        """Measured RSS of one worker by the archive's sha256, in bytes."""
        with self._lock:
            return dict(self._content.footprints)

    def save_footprint(self, sha256: str, size: int) -> None:
        """Store the measured RSS of a worker."""
        with self._lock:
            others = [(k, v) for k, v in self._content.footprints.items() if k != sha256]
            footprints = dict([*others, (sha256, size)][-_MOST_FOOTPRINTS:])
            self._write(self._content.model_copy(update={"footprints": footprints}))

    def _write(self, changed: _Content) -> None:
        if changed == self._content:
            return
        self._folder.write(changed.model_dump(mode="json"))
        self._referenced_before = {each.desired for each in self._content.revisions}
        self._content = changed

    def _load_desired(self) -> None:
        """Read the desired states; a revision whose state is damaged is left out."""
        intact = []
        for each in self._content.revisions:
            text = self._folder.read_desired(each.desired)
            try:
                if text is None:
                    raise ValueError
                if each.desired not in self._desired:
                    self._desired[each.desired] = Desired.model_validate_json(text)
            except ValueError:
                self.notices.append(
                    f"The desired state of revision {each.number} is missing or damaged; the "
                    "revision was left out of the history."
                )
            else:
                intact.append(each)
        self._content.revisions = intact

    def _remove_unreferenced(self) -> None:
        # state.json.previous refers to files, too.
        needed = self._referenced_before | {each.desired for each in self._content.revisions}
        self._folder.remove_desired(except_for=needed)
        self._desired = {key: each for key, each in self._desired.items() if key in needed}

    def _revision(self, stored: _StoredRevision) -> Revision:
        fields = stored.model_dump(exclude={"desired", "size", "source"})
        return Revision(desired=self._desired[stored.desired], source=stored.source, **fields)


def _bounded(revisions: list[_StoredRevision]) -> list[_StoredRevision]:
    """Return the newest revisions within the limits; the last one in any case."""
    kept: list[_StoredRevision] = []
    sizes: dict[str, int] = {}
    for each in reversed(revisions[-MOST_REVISIONS:]):
        sizes[each.desired] = each.size
        if kept and sum(sizes.values()) > MOST_BYTES:
            break
        kept.insert(0, each)
    return kept
