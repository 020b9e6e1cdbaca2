"""Canaries and other changes: restarts, other commands, and starts that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from canary_world import SHA, SOURCE, World, served, target
from canary_world import world as world

from vestal.errors import UsageError
from vestal.fleet.canary.requests import CanaryRequest
from vestal.fleet.desired import Desired
from vestal.gateway.settings import Gateway, Sticky


@pytest.mark.parametrize("paused", [False, True])
def test_a_restart_continues_at_the_same_step(world: World, paused: bool) -> None:
    world.until_running()
    for _ in range(2):
        world.tick(own=1000, others=1000)
    assert world.share() == 50
    if paused:
        world.canaries.command("m", "pause")
    world.restart()
    loaded = world.state
    world.state = replace(loaded, versions={"1.0": world.version("1.0")})
    world.counts.clear()  # the gateway was started again, too
    world.tick()
    assert (world.run.state, world.share()) == ("loading", 50)
    world.state = loaded
    world.tick()
    assert world.run.state == ("paused" if paused else "running")
    assert world.share() == 50
    for _ in range(3):
        world.tick(own=1000, others=1000)
    assert world.share() == (50 if paused else 100)


def test_the_times_of_the_first_step_survive_a_restart(world: World) -> None:
    world.until_running()
    for _ in range(2):
        world.tick(own=1000, others=1000)
    world.restart()
    assert world.run.slowest_times is not None
    assert world.run.slowest_times.quantile(0.99) == 21


def test_it_ends_when_another_command_changes_the_model(world: World) -> None:
    world.until_running()
    world.fleet.change(served("1.0"), SOURCE, thorough=True, again=True)
    world.tick()
    assert world.run.state == "superseded"
    assert world.run.reason == "`vestal apply` has changed what is desired of m"
    assert world.fleet.desired == served("1.0")


def test_it_ends_when_the_model_is_removed(world: World) -> None:
    world.until_running()
    world.fleet.change(Desired(gateway=Gateway()), SOURCE, thorough=True, again=True)
    world.canaries.command("m", "pause")
    world.tick()
    assert world.run.state == "superseded"
    assert world.fleet.desired.models == {}


def test_it_ends_when_the_server_is_started_with_other_models(world: World) -> None:
    world.until_running()
    world.fleet.desired = served("1.0")
    world.tick()
    assert world.run.reason == "`vestal serve` was started with another state of m"


def test_it_continues_when_another_command_scales_the_model(world: World) -> None:
    world.until_running()
    versions = {**world.model.versions, "1.0": target("1.0", workers=4)}
    model = world.model.with_versions("1.0", versions)
    desired = world.fleet.desired.model_copy(update={"models": {"m": model}})
    world.fleet.change(desired, SOURCE, thorough=True, again=True)
    for _ in range(2):
        world.tick(own=1000, others=1000)
    assert (world.run.state, world.share()) == ("running", 50)
    assert world.model.versions["1.0"] == target("1.0", workers=4)


REFUSED = {
    "unknown model": (served("1.0"), {"model": "n"}, r"no model n is served; served: m"),
    "default version": (
        served("1.0"),
        {"version": "1.0", "sha256": SHA["1.0"]},
        r"m 1\.0 is the default version already",
    ),
    "no gateway": (
        served("1.0").model_copy(update={"gateway": None}),
        {},
        r"a canary needs the gateway.*`gateway: \{port: 8000\}` to serving\.yaml",
    ),
    "other bytes": (
        served("1.0", "2.0"),
        {"sha256": "c" * 64},
        r"m 2\.0 is already served from m-2\.0\.mar .* has another content",
    ),
    "a fixed share": (
        served("1.0", "2.0", canary={"version": "2.0", "weight": 5}),
        {"version": "3.0"},
        r"m 2\.0 has a fixed share of 5 %",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_canary_that_cannot_be_started_is_refused(name, tmp_path, monkeypatch) -> None:
    desired, fields, message = REFUSED[name]
    world = World(tmp_path / "state", desired, monkeypatch)
    request = {"model": "m", "version": "2.0", "archive": "m-2.0.mar", "sha256": SHA["2.0"]}
    with pytest.raises(UsageError, match=message):
        world.canaries.prepare(CanaryRequest.model_validate({**request, **fields}))
    assert world.store.canaries == {}


def test_a_second_canary_is_refused_until_the_first_has_ended(world: World) -> None:
    world.start()
    with pytest.raises(UsageError, match=r"a canary of m 2\.0 is running \(at 10 %\)"):
        world.start()
    world.canaries.command("m", "abort")
    with pytest.raises(UsageError, match="no canary of m is running; the last one was aborted"):
        world.canaries.command("m", "resume")
    world.start()
    assert world.run.state == "loading"


def test_commands_without_a_canary_are_refused(world: World) -> None:
    with pytest.raises(UsageError, match="there is no canary of m; `vestal canary m VERSION`"):
        world.canaries.command("m", "pause")
    with pytest.raises(UsageError, match="no model n is served"):
        world.canaries.command("n", "pause")


def test_a_fixed_share_of_the_same_version_is_taken_over_with_its_sticky_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sticky = Sticky(header="x-user")
    fixed = {"version": "2.0", "weight": 5, "sticky": sticky}
    world = World(tmp_path / "state", served("1.0", "2.0", canary=fixed), monkeypatch)
    world.start()
    assert world.model.canary is not None
    assert (world.model.canary.weight, world.model.canary.sticky) == (10, sticky)
    world.canaries.command("m", "abort")
    assert world.fleet.desired == served("1.0")
