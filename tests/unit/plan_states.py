"""Desired and actual states for tests of the plan: by hand, and at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from vestal.fleet.actual import Actual, ModelState, Previous, VersionState
from vestal.fleet.desired import ModelTarget, SwapPolicy, VersionTarget, Workers
from vestal.fleet.simulate import simulate
from vestal.fleet.steps import Plan

GIB = 1 << 30
NOW = 1000.0
VERSIONS = ("1.0", "2.0", "3.0")


def digest(version: str, build: str = "a") -> str:
    return (version[0] + build) * 32


def wants(version: str, *, low: int = 1, high: int | None = None, build: str = "a") -> Any:
    return VersionTarget(
        archive=f"m-{version}.mar",
        sha256=digest(version, build),
        workers=Workers(min=low, max=high or low),
    )


def target(default: str, *also: str, keep: float | None = 0.0, **workers: Any) -> ModelTarget:
    return ModelTarget(
        default=default,
        versions={version: wants(version, **workers) for version in (default, *also)},
        swap=SwapPolicy(keep_previous_seconds=keep),
    )


def runs(version: str, **fields: Any) -> VersionState:
    known = {"archive": f"m-{version}.mar", "sha256": digest(version), "workers": 1, "ready": 1}
    return VersionState(**{**known, "verified": True, "memory": GIB // 2, **fields})


def state(*versions: str, **fields: Any) -> ModelState:
    """The first version is the default, and confirmed."""
    known: dict[str, Any] = {"versions": {version: runs(version) for version in versions}}
    if versions:
        known["default"] = known["serving"] = versions[0]
        known["serving_archive"] = (f"m-{versions[0]}.mar", digest(versions[0]))
    return ModelState(**{**known, **fields})


def actual(model: ModelState | None = None, *, free: int = 8 * GIB, **footprints: int) -> Actual:
    known = {digest(version): GIB // 2 for version in VERSIONS}
    models = {} if model is None else {"m": model}
    return Actual(models=models, now=NOW, memory_free=free, footprints=known)


def states_of(plan: Plan, before: Actual) -> Sequence[Actual]:
    """The state before the plan, and after each step."""
    states = [before]
    for step in plan.steps:
        states.append(simulate(step, states[-1]))
    return states


def restarted(before: Actual) -> Actual:
    """TorchServe has lost all registrations; what is stored remains."""
    models = before.models.items()
    memory = sum(v.memory for _, each in models for v in each.versions.values())
    lost = {name: replace(each, default=None, versions={}, settling=False) for name, each in models}
    return replace(before, models=lost, memory_free=before.memory_free + memory)


@st.composite
def targets(draw: Callable[..., Any], builds: Sequence[str] = ("a",)) -> ModelTarget:
    versions: dict[str, VersionTarget] = {}
    for version in draw(st.lists(st.sampled_from(VERSIONS), min_size=1, unique=True)):
        low = draw(st.integers(1, 3))
        high = draw(st.integers(low, 4))
        versions[version] = wants(version, low=low, high=high, build=draw(st.sampled_from(builds)))
    return ModelTarget(
        default=next(iter(versions)),
        versions=versions,
        swap=SwapPolicy(keep_previous_seconds=draw(st.sampled_from([0.0, 60.0, None]))),
    )


@st.composite
def model_states(draw: Callable[..., Any]) -> ModelState:
    """Any state, also one that the keeper never makes."""
    names = draw(st.lists(st.sampled_from(VERSIONS), unique=True))
    versions = {
        name: VersionState(
            archive=f"m-{name}.mar",
            sha256=digest(name, draw(st.sampled_from("ab"))),
            workers=draw(st.integers(0, 4)),
            ready=draw(st.integers(0, 4)),
            verified=draw(st.booleans()),
            memory=draw(st.integers(0, GIB)),
            given_up=draw(st.booleans()),
        )
        for name in names
    }
    any_version = st.none() | st.sampled_from(VERSIONS)
    serving, previous = draw(any_version), draw(any_version)
    return ModelState(
        default=draw(st.sampled_from(names)) if names else None,
        versions=versions,
        serving=serving,
        serving_archive=serving and (f"m-{serving}.mar", digest(serving)),
        previous=previous and Previous(previous, NOW - draw(st.sampled_from([10.0, 100.0]))),
        settling=draw(st.booleans()),
        rejected=dict.fromkeys(draw(st.sets(st.sampled_from(VERSIONS))), "it predicts nonsense"),
    )


@st.composite
def footprints(draw: Callable[..., Any]) -> Mapping[str, int]:
    known = draw(st.sets(st.sampled_from([digest(v, b) for v in VERSIONS for b in "ab"])))
    return {each: draw(st.integers(GIB // 4, GIB)) for each in sorted(known)}


@st.composite
def actuals(draw: Callable[..., Any], names: Sequence[str] = ("m",)) -> Actual:
    return Actual(
        models={name: draw(model_states()) for name in names if draw(st.booleans())},
        now=NOW,
        memory_free=draw(st.integers(0, 4 * GIB)),
        footprints=draw(footprints()),
    )
