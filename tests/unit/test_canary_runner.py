"""Canaries in the keeper: what they desire, what is stored, and how they end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from canary_world import SHA, SOURCE, World, served, target

from vestal.errors import UsageError, VestalError
from vestal.fleet.canary.counts import Counts
from vestal.fleet.canary.requests import CanaryRequest
from vestal.fleet.canary.states import desire, is_desired
from vestal.fleet.desired import Desired
from vestal.gateway.settings import Gateway, Sticky


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "state", served("1.0"), monkeypatch)


def test_a_good_canary_gets_every_share_and_becomes_the_default_version(world: World) -> None:
    world.start(user="alice")
    assert (world.run.state, world.share()) == ("loading", 10)
    assert world.model.versions["2.0"] == target("2.0")  # with the workers of 1.0
    world.tick(own=5000, others=5000)
    assert world.run.state == "loading"
    world.load()
    world.tick()
    shares = set()
    for _ in range(12):
        shares.add(world.share())
        world.tick(own=1000, others=1000)
    assert shares == {10, 50, 100, None}
    assert world.run.state == "promoting"
    assert (world.model.default, list(world.model.versions)) == ("2.0", ["2.0"])
    assert world.model.canary is None
    world.state = replace(world.state, default="2.0", settling=True)
    world.tick()
    assert world.run.state == "promoting"
    world.state = replace(world.state, serving="2.0", settling=False)
    world.tick()
    assert world.run.state == "promoted"
    assert world.events[-1] == ("done", "m 2.0 is the default version")
    newest = world.store.revisions[0].source
    assert (newest.command, newest.user) == ("vestal canary m 2.0", "alice")
    # `vestal rollback m` returns to the state before the canary.
    assert world.fleet.revisions.before(world.fleet.desired, "m", ["2.0", "1.0"]).models == (
        served("1.0").models
    )


def test_requests_before_a_step_are_not_counted(world: World) -> None:
    world.counts["m", "2.0"] = Counts(requests=10_000, failures=10_000)
    world.until_running()
    world.tick(own=1000, others=1000)
    world.tick(own=1000, others=1000)
    assert world.run.state == "running"


def test_a_canary_that_fails_is_sent_back_and_removed(world: World) -> None:
    world.until_running()
    world.tick()
    world.tick(own=1000, others=1000, failures=30)
    assert world.run.state == "reverted"
    assert "30 of 1,000 requests failed (3.00%); allowed: 0.5%" in str(world.run.reason)
    assert world.fleet.desired == served("1.0")
    kind, text = world.events[-1]
    assert (kind, text.startswith("m 2.0 is sent back, and 1.0 gets all requests: ")) == (
        "failed",
        True,
    )


def test_a_version_that_was_served_in_addition_is_served_in_addition_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = served("1.0", "2.0")
    world = World(tmp_path / "state", before, monkeypatch)
    world.until_running()
    world.canaries.command("m", "abort")
    assert (world.run.state, world.fleet.desired) == ("aborted", before)


def test_a_version_that_is_rejected_while_it_is_loaded_is_sent_back(world: World) -> None:
    world.start()
    world.reject("m 2.0 did not load: no weights")
    world.tick()
    assert (world.run.state, world.run.reason) == ("reverted", "m 2.0 did not load: no weights")
    assert world.fleet.desired == served("1.0")


def test_a_version_that_was_rejected_before_is_tried_again(world: World) -> None:
    world.reject("m 2.0 did not load: no weights")
    world.start()
    world.tick()  # with a state from before the start
    assert world.run.state == "loading"


def test_a_version_that_the_switch_rejects_gives_the_default_back(world: World) -> None:
    world.until_running()
    for _ in range(12):
        world.tick(own=1000, others=1000)
    assert world.run.state == "promoting"
    world.reject("m 2.0 is worse than 1.0")
    world.tick()
    assert world.run.state == "reverted"
    assert world.fleet.desired == served("1.0")


def test_a_paused_canary_keeps_its_share_but_is_watched(world: World) -> None:
    world.until_running()
    world.canaries.command("m", "pause")
    for _ in range(3):
        world.tick(own=1000, others=1000)
    assert (world.run.state, world.share()) == ("paused", 10)
    with pytest.raises(UsageError, match=r"m 2\.0 is paused already"):
        world.canaries.command("m", "pause")
    world.canaries.command("m", "resume")
    world.tick(own=1000, others=1000)
    assert (world.run.state, world.share()) == ("running", 50)
    world.canaries.command("m", "pause")
    world.tick()
    world.tick(own=1000, others=1000, failures=50)
    assert world.run.state == "reverted"


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


def test_without_the_statistics_it_waits_and_says_why(world: World) -> None:
    world.until_running()
    world.problem = "the gateway does not run"
    world.tick(own=1000, others=1000)
    (status,) = world.canaries.all()
    assert (status.state, status.waiting) == ("running", "the gateway does not run")


def test_the_status_has_the_numbers_of_both_versions(world: World) -> None:
    world.until_running()
    world.tick()
    world.tick(own=100, others=900)
    (status,) = world.canaries.all()
    found = [(each.version, each.requests, each.p99) for each in status.traffic]
    assert found == [("2.0", 100, 0.021), ("1.0", 900, 0.021)]
    assert "100 of 697 requests for an error rate below 0.5%" in str(status.waiting)


def test_a_full_disk_leaves_the_step_as_it_is(world: World) -> None:
    world.until_running()
    world.tick(own=1000, others=1000)
    before = world.run

    def full(*_: object) -> None:
        raise VestalError("no space is left")

    with world.monkeypatch.context() as patch:
        patch.setattr(world.store._folder, "write", full)
        with pytest.raises(VestalError, match="no space"):
            world.tick(own=1000, others=1000)
        assert (world.run, world.share()) == (before, 10)
    world.tick(own=1000, others=1000)
    world.tick(own=1000, others=1000)
    assert world.share() == 50


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


def test_every_desired_state_of_a_canary_is_valid(world: World) -> None:
    world.start()
    states = ("loading", "running", "paused", "promoting", "reverted", "aborted")
    for step in range(3):
        for state in states:
            run = world.run.model_copy(update={"state": state, "step": step})
            desired = desire(served("1.0"), run)
            assert Desired.model_validate_json(desired.model_dump_json()) == desired
            if not run.ended:
                assert is_desired(desired.models["m"], run)
