"""What the keeper knows of each model, together with what it observes.

TorchServe knows which versions are registered and which one is the default. The keeper knows from
which bytes each was registered, whether it is verified, and which one served before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from vestal.fleet.actual import Actual, ModelState, VersionState
from vestal.fleet.capacity import memory_free, rss_of
from vestal.fleet.observing import Observed
from vestal.fleet.simulate import simulate
from vestal.fleet.state import StateStore
from vestal.fleet.steps import Register, Step

_GROWTH = 1.1
"""A footprint is stored again when it has grown by this factor."""


class Knowledge:
    """The known state of all models. Thread-safe.

    `stored`: it is read from the store, and changes are written to it. Footprints always are.
    """

    def __init__(self, store: StateStore, *, stored: bool) -> None:
        self._store, self._stored = store, stored
        self._lock = threading.RLock()
        self._models: dict[str, ModelState] = dict(store.models) if stored else {}
        self._claims: dict[str, int] = {}
        self._own: dict[tuple[str, str], VersionState] = {}
        """Versions that the keeper has begun to register, and not observed since."""

    def start_storing(self) -> None:
        """Write what is known, and every change from now on."""
        with self._lock:
            self._stored = True
            for name in self._models:
                self._save(name)

    @property
    def models(self) -> Mapping[str, ModelState]:
        """The known state by model; versions and default as last observed."""
        with self._lock:
            return dict(self._models)

    def state(self, name: str) -> ModelState:
        with self._lock:
            return self._models.get(name, ModelState())

    def actual(
        self,
        observed: Mapping[str, Observed],
        given_up: Collection[tuple[str, str]],
        *,
        claimed_except: str | None = None,
    ) -> Actual:
        """Combine what is known with what is observed; versions that others register are left out.

        Args:
            claimed_except: a model whose own claim counts as free memory.
        """
        with self._lock:
            models = {
                name: self._combine(name, known, observed.get(name), given_up)
                for name, known in self._models.items()
            }
            claims = sum(each for name, each in self._claims.items() if name != claimed_except)
        return Actual(
            models=models,
            now=time.time(),
            memory_free=max(0, memory_free() - claims),
            footprints=self._store.footprints,
        )

    def sync(self, actual: Actual, names: Iterable[str]) -> None:
        """Remember the observed versions, workers and default of some models."""
        with self._lock:
            for name in names:
                if (state := actual.models.get(name)) is not None and name in self._models:
                    known = self._models[name]
                    for version in state.versions:
                        self._own.pop((name, version), None)
                    self._models[name] = replace(
                        known, default=state.default, versions=state.versions
                    )

    def begin(self, step: Step) -> None:
        """Record that a step begins: its memory is claimed, and the version is the keeper's own."""
        with self._lock:
            self._claims[step.model] = max(0, step.memory or 0)
            if isinstance(step, Register):
                version = VersionState(step.archive, step.sha256, step.workers)
                self._own[step.model, step.version] = version
                self._models.setdefault(step.model, ModelState())

    def end(self, step: Step, actual: Actual | None) -> None:
        """Record that a step has ended; `actual`: the state before it, if it succeeded."""
        with self._lock:
            self._claims.pop(step.model, None)
            if actual is not None:
                self._own.pop((step.model, step.version), None)
                self._models[step.model] = simulate(step, actual).models[step.model]
                self._save(step.model)

    def reject(self, step: Step, reason: str) -> None:
        """Record why a version failed."""
        with self._lock:
            known = self.state(step.model)
            rejected = {**known.rejected, step.version: reason}
            self._models[step.model] = replace(known, rejected=rejected, settling=False)
            self._save(step.model)

    def forgive(self) -> None:
        """Forget which versions were rejected: they may be tried again."""
        with self._lock:
            for name, known in self._models.items():
                if known.rejected:
                    self._models[name] = replace(known, rejected={})
                    self._save(name)

    def adopt(self, name: str, version: str, state: VersionState, *, default: bool) -> None:
        """Record a version that others have registered or made the default."""
        with self._lock:
            known = self.state(name)
            known = replace(known, versions={**known.versions, version: state})
            if default:
                served = (state.archive, state.sha256)
                known = replace(known, default=version, serving=version, serving_archive=served)
            self._models[name] = known
            self._save(name)

    def disown(self, name: str, version: str) -> None:
        """Record that others have unregistered a version, or removed its workers."""
        with self._lock:
            self._own.pop((name, version), None)
            known = self.state(name)
            versions = {key: each for key, each in known.versions.items() if key != version}
            known = replace(known, versions=versions)
            if known.serving == version:
                known = replace(known, serving=None, serving_archive=None)
            self._models[name] = known
            self._save(name)

    def forget_registrations(self) -> None:
        """Record that TorchServe has been restarted: no version is registered."""
        with self._lock:
            self._claims.clear()
            self._own.clear()
            for name, known in self._models.items():
                self._models[name] = replace(known, default=None, versions={}, settling=False)

    def forget(self, name: str) -> None:
        """Forget a model that is not desired and has no version."""
        with self._lock:
            self._models.pop(name, None)
            if self._stored:
                self._store.forget_model(name)

    def measure(self, actual: Actual) -> None:
        """Store the memory of the workers of verified versions."""
        footprints = self._store.footprints
        for state in actual.models.values():
            for version in state.versions.values():
                if not version.verified or not version.ready or version.ready != version.workers:
                    continue
                size = version.memory // version.ready
                if size > footprints.get(version.sha256, 0) * _GROWTH:
                    self._store.save_footprint(version.sha256, size)

    def _save(self, name: str) -> None:
        if self._stored:
            self._store.save_model(name, self._models[name])

    def _combine(
        self,
        name: str,
        known: ModelState,
        observed: Observed | None,
        given_up: Collection[tuple[str, str]],
    ) -> ModelState:
        versions = {}
        for version, description in ({} if observed is None else observed.versions).items():
            own = known.versions.get(version) or self._own.get((name, version))
            if own is not None:
                pids = [worker.pid for worker in description.workers if worker.pid is not None]
                versions[version] = replace(
                    own,
                    workers=description.min_workers,
                    ready=len(description.ready_workers),
                    memory=rss_of(pids),
                    given_up=(name, version) in given_up,
                )
        default = observed.default if observed and observed.default in versions else None
        return replace(known, default=default, versions=versions)
