"""Canaries in the keeper: what they desire, what is stored, and how they end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from canary_world import World, served, target
from canary_world import world as world

from vestal.errors import UsageError, VestalError
from vestal.fleet.canary.counts import Counts
from vestal.fleet.canary.states import desire, is_desired
from vestal.fleet.desired import Desired


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
