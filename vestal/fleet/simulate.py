"""The state after a step. The keeper records the same changes after it has carried a step out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vestal.fleet.actual import Actual, ModelState, Previous, VersionState
from vestal.fleet.capacity import SMALLEST_WORKER
from vestal.fleet.steps import Register, Remove, Scale, Settle, Step, Switch, Verify


def simulate(step: Step, actual: Actual) -> Actual:
    """Return the state after a step that succeeds at once.

    Raises:
        KeyError: the step is for a version that is not registered.
    """
    state = actual.models.get(step.model, ModelState())
    return replace(
        actual,
        models={**actual.models, step.model: _after(step, state, actual.now)},
        memory_free=actual.memory_free - _memory(step),
    )


def _memory(step: Step) -> int:
    """Return the change of the memory in use, at least what is certain."""
    match step:
        case Register(memory=None):
            return SMALLEST_WORKER * step.workers
        case Scale(memory=None):
            return SMALLEST_WORKER * (step.workers - step.workers_before)
    return step.memory or 0


def _after(step: Step, state: ModelState, now: float) -> ModelState:
    match step:
        case Register():
            return _registered(step, state)
        case Verify():
            changed = _with_version(state, step.version, verified=True)
            # A swap confirms it later; without one, nothing else will.
            confirmed = step.version == state.default and not state.settling
            return _confirmed(changed) if confirmed else changed
        case Switch():
            return _switched(step, state, now)
        case Settle():
            return _confirmed(state)
        case Scale():
            memory = state.versions[step.version].memory + _memory(step)
            return _with_version(
                state,
                step.version,
                workers=step.workers,
                ready=step.workers,
                memory=memory,
                given_up=False,
            )
        case Remove():
            return _removed(step.version, state)
    raise TypeError(f"unknown step {step}")


def _registered(step: Register, state: ModelState) -> ModelState:
    version = VersionState(
        archive=step.archive,
        sha256=step.sha256,
        workers=step.workers,
        ready=step.workers,
        memory=_memory(step),
    )
    versions = {**state.versions, step.version: version}
    if state.versions:
        return replace(state, versions=versions)
    # TorchServe makes the first version the default.
    return replace(state, versions=versions, default=step.version, settling=False)


def _switched(step: Switch, state: ModelState, now: float) -> ModelState:
    previous = state.previous
    if step.previous is not None:
        previous = Previous(step.previous, now)
    elif previous is not None and previous.version == step.version:
        previous = None
    changed = replace(state, default=step.version, previous=previous, settling=True)
    return changed if step.settle else _confirmed(changed)


def _confirmed(state: ModelState) -> ModelState:
    """Return the state with its default version as the one to restore after a restart."""
    if state.default is None:
        raise KeyError("there is no default version to confirm")
    version = state.versions[state.default]
    return replace(
        state,
        settling=False,
        serving=state.default,
        serving_archive=(version.archive, version.sha256),
    )


def _removed(version: str, state: ModelState) -> ModelState:
    versions: Mapping[str, VersionState] = {
        name: each for name, each in state.versions.items() if name != version
    }
    default = None if state.default == version else state.default
    if state.serving == version:
        state = replace(state, serving=None, serving_archive=None)
    return replace(state, versions=versions, default=default)


def _with_version(state: ModelState, version: str, **changes: object) -> ModelState:
    changed = replace(state.versions[version], **changes)  # type: ignore[arg-type]
    return replace(state, versions={**state.versions, version: changed})
