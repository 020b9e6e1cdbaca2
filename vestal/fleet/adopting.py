"""Adopt what others change directly through TorchServe's management API.

Clients register, scale, switch and unregister versions (`vestal.Client`, curl). The keeper does not
undo these changes: they become part of what is desired, so that they survive a restart. A version
is adopted when its workers are READY, without the keeper's checks. One that others scale to 0 is
left alone until it has workers again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from vestal.fleet.actual import ModelState, VersionState
from vestal.fleet.desired import Desired, ModelTarget, VersionTarget, Workers
from vestal.fleet.fleet import Fleet
from vestal.fleet.observing import Observed
from vestal.fleet.status import Source
from vestal.mar.index import sha256_of

OTHERS = Source(command="TorchServe's management API", user="")
"""The source of these changes."""


@dataclass(frozen=True)
class ForeignChange:
    """One change that the keeper did not make. `workers`: of a version that was scaled."""

    kind: Literal["registered", "unregistered", "default", "scaled", "emptied"]
    model: str
    version: str
    workers: int = 1

    def __str__(self) -> str:
        name = f"{self.model} {self.version}"
        match self.kind:
            case "registered":
                return f"{name} was registered"
            case "unregistered":
                return f"{name} was unregistered"
            case "default":
                return f"{name} was made the default version"
            case "scaled" | "emptied":
                return f"{name} was scaled to {self.workers}"


def find_changes(
    name: str, known: ModelState, observed: Observed | None
) -> Iterator[ForeignChange]:
    """Compare a model, on which no step is being carried out, with what was known of it."""
    versions = {} if observed is None else observed.versions
    for version, description in versions.items():
        before = known.versions.get(version)
        workers = description.min_workers
        if before is None:
            if len(description.ready_workers) == len(description.workers) >= max(1, workers):
                yield ForeignChange("registered", name, version, workers)
        elif before.workers != workers:
            kind: Literal["scaled", "emptied"] = "scaled" if workers else "emptied"
            yield ForeignChange(kind, name, version, workers)
    default = None if observed is None else observed.default
    if default is not None and default != known.default:
        yield ForeignChange("default", name, default)
    for version in known.versions.keys() - versions.keys():
        yield ForeignChange("unregistered", name, version)


def desire(desired: Desired, change: ForeignChange, target: VersionTarget | None) -> Desired:
    """Return the desired state with a change of others.

    Args:
        target: of a version that was registered.
    """
    models = dict(desired.models)
    model = models.get(change.model)
    changed = _change(model, change, target)
    if changed is None:
        models.pop(change.model, None)
    else:
        models[change.model] = changed
    return desired.model_copy(update={"models": models})


def _change(
    model: ModelTarget | None, change: ForeignChange, target: VersionTarget | None
) -> ModelTarget | None:
    version = change.version
    versions = {} if model is None else dict(model.versions)
    if change.kind == "registered" and target is not None:
        versions[version] = target
        if model is None:
            return ModelTarget(default=version, versions=versions)
    if model is None:
        return None
    if change.kind in ("unregistered", "emptied"):
        versions.pop(version, None)
        if not versions:
            return None
        default = model.default if model.default in versions else next(iter(versions))
        return model.with_versions(default, versions)
    if change.kind == "default" and version in versions:
        return model.with_versions(version, versions)
    if change.kind == "scaled" and version in versions:
        bounds = versions[version].workers
        if not bounds.min <= change.workers <= bounds.max:
            fixed = Workers(min=change.workers, max=change.workers)
            versions[version] = versions[version].model_copy(update={"workers": fixed})
    return model.model_copy(update={"versions": versions})


def adopt(fleet: Fleet, name: str, known: ModelState, seen: Observed | None) -> None:
    """Make others' changes of one model a part of what is desired."""
    for change in list(find_changes(name, known, seen)):
        target = None
        if change.kind == "registered":
            assert seen is not None
            target = _adopt_version(fleet, change, seen)
            if target is None:
                continue
        elif change.kind in ("unregistered", "emptied"):
            fleet.knowledge.disown(name, change.version)
        with fleet.lock:
            desired = desire(fleet.desired, change, target)
            if desired != fleet.desired and not fleet.stopping:
                fleet.change(desired, OTHERS, thorough=fleet.thorough, again=False)
                fleet.report("note", f"{change} by another client")


def _adopt_version(fleet: Fleet, change: ForeignChange, seen: Observed) -> VersionTarget | None:
    """Return the target of a version; None if its archive is not in the store."""
    archive = seen.versions[change.version].archive
    try:
        digest = sha256_of(fleet.store / archive)
    except OSError:
        return None
    count = max(1, change.workers)
    state = VersionState(archive, digest, change.workers, change.workers, verified=True)
    is_default = seen.default == change.version
    fleet.knowledge.adopt(change.model, change.version, state, default=is_default)
    workers = Workers(min=count, max=count)
    return VersionTarget(archive=archive, sha256=digest, workers=workers)


def known_models(
    known: Mapping[str, ModelState], observed: Mapping[str, Observed]
) -> dict[str, tuple[ModelState, Observed | None]]:
    """Pair what is known of each model with what is observed."""
    return {
        name: (known.get(name, ModelState()), observed.get(name))
        for name in [*known, *(name for name in observed if name not in known)]
    }
