"""Changes that other clients make at TorchServe become a part of what is desired."""

from __future__ import annotations

import pytest

from vestal.client import ModelDescription, Worker
from vestal.fleet.actual import ModelState, VersionState
from vestal.fleet.adopting import ForeignChange, desire, find_changes
from vestal.fleet.desired import Desired, ModelTarget, VersionTarget, Workers
from vestal.fleet.observing import Observed

KNOWN = ModelState(default="1.0", versions={"1.0": VersionState("m-1.0.mar", "a" * 64, 1, 1)})


def description(version: str, workers: int = 1, ready: int | None = None) -> ModelDescription:
    up = workers if ready is None else ready
    states = ["READY"] * up + ["UNLOADING"] * (workers - up)
    return ModelDescription(
        name="m",
        version=version,
        archive=f"m-{version}.mar",
        min_workers=workers,
        max_workers=workers,
        batch_size=1,
        max_batch_delay=100,
        response_timeout=120,
        workers=tuple(Worker(str(9000 + n), state, 100 + n) for n, state in enumerate(states)),
        queue_pending=0,
        queue_remaining=100,
    )


def observed(*versions: ModelDescription, default: str = "1.0") -> Observed:
    return Observed(default, {each.version: each for each in versions})


def target(version: str, workers: Workers | None = None) -> VersionTarget:
    return VersionTarget(archive=f"m-{version}.mar", sha256="a" * 64, workers=workers or Workers())


def desired(*versions: str, default: str = "1.0") -> Desired:
    targets = {version: target(version) for version in versions}
    return Desired(models={"m": ModelTarget(default=default, versions=targets)})


@pytest.mark.parametrize(
    ("seen", "changes"),
    [
        (observed(description("1.0")), []),
        (None, [ForeignChange("unregistered", "m", "1.0")]),
        (observed(description("1.0", workers=2)), [ForeignChange("scaled", "m", "1.0", 2)]),
        (observed(description("1.0", workers=0)), [ForeignChange("emptied", "m", "1.0", 0)]),
        (observed(description("1.0"), description("2.0", workers=0)), []),
        (
            observed(description("1.0"), description("2.0", workers=3)),
            [ForeignChange("registered", "m", "2.0", 3)],
        ),
        (observed(description("1.0"), description("2.0", workers=2, ready=1)), []),
        (
            observed(description("2.0"), default="2.0"),
            [
                ForeignChange("registered", "m", "2.0"),
                ForeignChange("default", "m", "2.0"),
                ForeignChange("unregistered", "m", "1.0"),
            ],
        ),
    ],
    ids=[
        "none",
        "gone",
        "scaled",
        "to 0",
        "without workers",
        "registered",
        "still loading",
        "swapped",
    ],
)
def test_changes_are_found(seen: Observed | None, changes: list[ForeignChange]) -> None:
    assert list(find_changes("m", KNOWN, seen)) == changes


def test_a_registered_version_is_desired_in_addition() -> None:
    change = ForeignChange("registered", "m", "2.0")
    assert desire(desired("1.0"), change, target("2.0")) == desired("1.0", "2.0")
    assert desire(Desired(), change, target("2.0")) == desired("2.0", default="2.0")


def test_a_new_default_is_desired_if_its_version_is() -> None:
    before = desired("1.0", "2.0")
    assert desire(before, ForeignChange("default", "m", "2.0"), None) == desired(
        "1.0", "2.0", default="2.0"
    )
    assert desire(before, ForeignChange("default", "m", "3.0"), None) == before


def test_a_version_that_is_unregistered_or_without_workers_is_not_desired_any_more() -> None:
    for gone in (
        ForeignChange("unregistered", "m", "1.0"),
        ForeignChange("emptied", "m", "1.0", 0),
    ):
        assert desire(desired("1.0", "2.0"), gone, None) == desired("2.0", default="2.0")
        assert desire(desired("1.0"), gone, None) == Desired()
        assert desire(Desired(), gone, None) == Desired()


def test_a_number_of_workers_outside_the_bounds_replaces_them() -> None:
    def workers(count: int) -> Workers:
        changed = desire(desired("1.0"), ForeignChange("scaled", "m", "1.0", count), None)
        return changed.models["m"].versions["1.0"].workers

    assert workers(3) == Workers(min=3, max=3)
    assert workers(1) == Workers()
