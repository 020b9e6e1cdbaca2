"""The next step of one model: the rules of a swap, in the order of their urgency."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from vestal.fleet.actual import Actual, ModelState, VersionState
from vestal.fleet.capacity import SMALLEST_WORKER, describe_lack
from vestal.fleet.desired import ModelTarget, VersionTarget, Workers
from vestal.fleet.steps import Problem, Register, Remove, Scale, Settle, Step, Switch, Verify

Found = Iterator[Step | Problem]
Brought = Generator[Step | Problem, None, bool]
"""Its result: whether the version is registered and verified."""


@dataclass(frozen=True)
class ModelPlan:
    """One model, as it is desired and as it runs. `target`: None if it should not run."""

    name: str
    target: ModelTarget | None
    actual: Actual

    def next_step(self) -> tuple[Step | None, list[Problem]]:
        """Return the most urgent step, or None and what prevents others."""
        problems: list[Problem] = []
        for found in self._rules():
            if isinstance(found, Step):
                return found, problems
            problems.append(found)
        return None, problems

    def _rules(self) -> Found:
        if self.target is None:
            yield from self._remove_all()
            return
        yield from self._repair(self.target)
        yield from self._restore(self.target)
        yield from self._remove_unused(self.target)
        yield from self._bring_default(self.target)
        yield from self._bring_others(self.target)
        yield from self._scale(self.target)

    @cached_property
    def _state(self) -> ModelState:
        return self.actual.models.get(self.name, ModelState())

    @cached_property
    def _default(self) -> str | None:
        default = self._state.default
        return default if default in self._state.versions else None

    @cached_property
    def _settling(self) -> bool:
        return self._state.settling and self._default not in (None, self._state.serving)

    @cached_property
    def _desired_versions(self) -> Mapping[str, VersionTarget]:
        """The desired versions that were not rejected."""
        versions = {} if self.target is None else self.target.versions
        return {name: each for name, each in versions.items() if name not in self._state.rejected}

    @cached_property
    def _default_is_good(self) -> bool:
        """Whether the default version is verified, and a swap may start from it.

        A version that is not confirmed yet gives way to the one before it, unless it is desired.
        """
        if self._default is None or self._default in self._state.rejected:
            return False
        desired = self.target is not None and self._default == self.target.default
        return self._state.versions[self._default].verified and (desired or not self._settling)

    def _remove_all(self) -> Found:
        # TorchServe does not remove the default version while there are others.
        for version in sorted(self._state.versions, key=lambda each: (each == self._default, each)):
            yield self._remove(version, "the model is not desired any more")

    def _repair(self, target: ModelTarget) -> Found:
        for version, found in self._state.versions.items():
            needed = version in self._desired_versions or version in (
                self._default,
                self._state.serving,
            )
            if needed and (found.given_up or not found.workers):
                bounds = self._bounds(version, target)
                workers = min(max(found.workers, bounds.min), bounds.max)
                why = "TorchServe does not restart its workers any more"
                yield from self._scale_to(
                    version, workers, why if found.given_up else "it has no worker"
                )

    def _restore(self, target: ModelTarget) -> Found:
        """Make a version that served before the default, if the present one is not good."""
        if self._default_is_good:
            return
        version = self._fallback(target)
        if version is None:
            return
        rejected = target.default in self._state.rejected
        why = f"{target.default} {'was rejected' if rejected else 'is not verified yet'}"
        if (yield from self._bring(version, self._fallback_target(version, target), why)):
            yield Switch(self.name, version, "it was the default before", settle=False)

    def _fallback(self, target: ModelTarget) -> str | None:
        state = self._state
        known = state.serving in state.versions or state.serving_archive is not None
        if known and state.serving not in (None, target.default, *state.rejected):
            return state.serving
        if target.default not in state.rejected:
            return None
        return next(
            (v for v in self._desired_versions if v in state.versions and self._is_verified(v)),
            None,
        )

    def _fallback_target(self, version: str, target: ModelTarget) -> VersionTarget:
        found = self._state.versions.get(version)
        if found is not None:
            archive, sha256 = found.archive, found.sha256
        elif self._state.serving_archive is not None:
            archive, sha256 = self._state.serving_archive
        else:
            raise KeyError(f"{self.name} {version}: its archive is unknown")
        return VersionTarget(archive=archive, sha256=sha256, workers=self._bounds(version, target))

    def _remove_unused(self, target: ModelTarget) -> Found:
        if self._settling:
            return
        only = len(self._state.versions) == 1
        needed = {*self._desired_versions, self._default}
        for version, found in sorted(self._state.versions.items()):
            # A bad version that serves is better than none.
            removable = version != self._default or (only and not found.verified)
            version_target = self._desired_versions.get(version)
            if version in self._state.rejected and removable:
                yield self._remove(version, "it was rejected")
            elif (
                version_target
                and found.sha256 != version_target.sha256
                and not found.verified
                and removable
            ):
                yield self._remove(version, "its archive has changed since it was registered")
            elif version not in needed and not self._is_kept(version, target):
                yield self._remove(version, "it is not desired any more")

    def _is_kept(self, version: str, target: ModelTarget) -> bool:
        """Whether it is kept for a rollback."""
        previous, seconds = self._state.previous, target.swap.keep_previous_seconds
        if previous is None or previous.version != version:
            return False
        return seconds is None or self.actual.now < previous.since + seconds

    def _bring_default(self, target: ModelTarget) -> Found:
        version, state = target.default, self._state
        if version in state.rejected:
            yield self._rejected(version)
            return
        if not (yield from self._bring(version, target.versions[version], "the default version")):
            return
        if self._default != version:
            previous = self._default if self._default_is_good else None
            before = state.previous.version if state.previous else None
            settle = previous is not None and version not in (before, state.serving)
            why = "it is verified" if settle or previous is None else "it was the default before"
            yield Switch(self.name, version, why, previous=previous, settle=settle)
        elif self._settling:
            old = state.previous.version if state.previous else None
            why = f"it is compared with {old}" if old else "it is observed under requests"
            why += f" for {target.swap.settle_seconds:g} s"
            yield Settle(self.name, version, why, previous=old)

    def _bring_others(self, target: ModelTarget) -> Found:
        for version, version_target in target.versions.items():
            if version == target.default:
                continue
            if version in self._state.rejected:
                yield self._rejected(version)
            else:
                yield from self._bring(version, version_target, "served in addition to the default")

    def _bring(self, version: str, version_target: VersionTarget, why: str) -> Brought:
        found = self._state.versions.get(version)
        if found is None:
            yield from self._register(version, version_target, why)
        elif found.sha256 != version_target.sha256:
            yield Problem(
                self.name,
                version,
                f"version {version} runs from an archive with sha256 {found.sha256}, and "
                f"{version_target.archive} now has {version_target.sha256}. Pack it as another "
                "version",
            )
        elif not found.verified:
            yield Verify(self.name, version, "its predictions must be as expected before it serves")
        else:
            return True
        return False

    def _register(self, version: str, version_target: VersionTarget, why: str) -> Found:
        workers = version_target.workers.min
        footprint = self.actual.footprints.get(version_target.sha256)
        memory = None if footprint is None else footprint * workers
        step = Register(
            self.name,
            version,
            why,
            memory,
            archive=version_target.archive,
            sha256=version_target.sha256,
            workers=workers,
        )
        lacking = describe_lack(memory, workers, self.actual.memory_free)
        if lacking and self._can_make_room(memory or SMALLEST_WORKER * workers):
            assert self._state.previous is not None
            yield self._remove(self._state.previous.version, f"{version} needs its memory")
        yield Problem(self.name, version, lacking) if lacking else step

    def _can_make_room(self, memory: int) -> bool:
        """Whether a version that is only kept for a rollback has the memory that is needed."""
        previous = self._state.previous
        found = self._state.versions.get(previous.version) if previous else None
        if previous is None or found is None or self._settling:
            return False
        needed = {*self._desired_versions, self._default, self._state.serving}
        room = self.actual.memory_free + found.memory
        return previous.version not in needed and room >= memory

    def _scale(self, target: ModelTarget) -> Found:
        for version, version_target in self._desired_versions.items():
            found, bounds = self._state.versions.get(version), version_target.workers
            if found and found.workers < bounds.min:
                yield from self._scale_to(version, bounds.min, f"at least {bounds.min} desired")
            elif found and found.workers > bounds.max:
                yield from self._scale_to(version, bounds.max, f"at most {bounds.max} desired")

    def _scale_to(self, version: str, workers: int, why: str) -> Found:
        found = self._state.versions[version]
        memory = self._scaled_memory(found, workers)
        # While workers are removed, more are ready than TorchServe wants.
        started = max(1, workers - min(found.ready, found.workers))
        lacking = describe_lack(memory, started, self.actual.memory_free)
        if lacking:
            yield Problem(self.name, version, lacking)
        else:
            yield Scale(
                self.name, version, why, memory, workers=workers, workers_before=found.workers
            )

    def _scaled_memory(self, found: VersionState, workers: int) -> int | None:
        if workers < found.workers:
            return found.memory * workers // found.workers - found.memory
        footprint = self.actual.footprints.get(found.sha256)
        return None if footprint is None else max(0, footprint * workers - found.memory)

    def _bounds(self, version: str, target: ModelTarget) -> Workers:
        """Bounds of a version, also of one that is not desired any more."""
        if version in target.versions:
            return target.versions[version].workers
        found = self._state.versions.get(version)
        if found is not None:
            return Workers(min=1, max=max(1, found.workers))
        return target.versions[target.default].workers

    def _is_verified(self, version: str) -> bool:
        return self._state.versions[version].verified

    def _remove(self, version: str, why: str) -> Remove:
        return Remove(self.name, version, why, -self._state.versions[version].memory)

    def _rejected(self, version: str) -> Problem:
        reason = self._state.rejected[version]
        return Problem(self.name, version, f"rejected: {reason}")
