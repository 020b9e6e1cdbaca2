"""The plans of single cases: which steps, in which order, and why not."""

from __future__ import annotations

from dataclasses import replace

from plan_states import (
    GIB,
    NOW,
    actual,
    digest,
    restarted,
    runs,
    state,
    states_of,
    target,
)

from vestal.fleet.actual import Actual, ModelState, Previous
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.plan import plan, plan_model, report
from vestal.fleet.simulate import simulate
from vestal.fleet.steps import Scale, Settle, Switch, Verify


def names(desired: ModelTarget | None, now: Actual) -> list[str]:
    return [f"{type(s).__name__} {s.version}" for s in plan_model("m", desired, now).steps]


def reasons(desired: ModelTarget | None, now: Actual) -> list[str]:
    return [f"{each.version}: {each.reason}" for each in plan_model("m", desired, now).problems]


def test_a_first_version_is_registered_and_verified() -> None:
    now = actual()
    assert names(target("1.0"), now) == ["Register 1.0", "Verify 1.0"]
    model = states_of(plan_model("m", target("1.0"), now), now)[-1].models["m"]
    assert (model.default, model.serving) == ("1.0", "1.0")
    assert model.serving_archive == ("m-1.0.mar", digest("1.0"))


def test_a_swap_verifies_before_it_switches_and_removes_the_old_version_last() -> None:
    swap = ["Register 2.0", "Verify 2.0", "Switch 2.0", "Settle 2.0", "Remove 1.0"]
    assert names(target("2.0"), actual(state("1.0"))) == swap


def test_the_old_version_is_kept_for_the_desired_time() -> None:
    kept = target("2.0", keep=60)
    swapped = states_of(plan_model("m", kept, actual(state("1.0"))), actual(state("1.0")))[-1]
    assert set(swapped.models["m"].versions) == {"1.0", "2.0"}
    assert names(kept, replace(swapped, now=NOW + 59)) == []
    assert names(kept, replace(swapped, now=NOW + 60)) == ["Remove 1.0"]
    assert names(target("2.0", keep=None), replace(swapped, now=NOW + 1e9)) == []


def test_a_version_that_is_kept_forever_is_removed_after_the_next_swap() -> None:
    now = actual(state("2.0", "1.0", previous=Previous("1.0", NOW - 1e6)))
    forever = target("3.0", keep=None)
    assert names(forever, now)[-3:] == ["Switch 3.0", "Settle 3.0", "Remove 1.0"]


def test_a_rollback_to_a_version_that_is_still_loaded_is_one_switch() -> None:
    now = actual(state("2.0", "1.0", previous=Previous("1.0", NOW - 10)))
    made = plan_model("m", target("1.0", keep=60), now)
    [step] = made.steps
    assert step == Switch("m", "1.0", step.why, previous="2.0", settle=False)
    assert simulate(step, now).models["m"].serving == "1.0"


def test_a_rollback_in_the_settling_time_is_one_switch_and_the_bad_version_goes() -> None:
    settling = state("1.0", "2.0", default="2.0", settling=True, previous=Previous("1.0", NOW))
    assert names(target("1.0"), actual(settling)) == ["Switch 1.0", "Remove 2.0"]


def test_another_desired_version_in_the_settling_time_returns_to_the_confirmed_one_first() -> None:
    settling = state("1.0", "2.0", default="2.0", settling=True, previous=Previous("1.0", NOW))
    steps = names(target("3.0"), actual(settling))
    assert steps[:3] == ["Switch 1.0", "Remove 2.0", "Register 3.0"]


def test_after_a_restart_the_version_that_served_comes_first() -> None:
    now = restarted(actual(state("1.0")))
    assert names(target("2.0"), now)[:3] == ["Register 1.0", "Verify 1.0", "Register 2.0"]
    assert names(target("1.0"), now) == ["Register 1.0", "Verify 1.0"]


def test_a_crash_in_the_settling_time_starts_the_swap_again_from_the_old_version() -> None:
    settling = state("1.0", "2.0", default="2.0", settling=True, previous=Previous("1.0", NOW))
    now = restarted(actual(settling))
    assert names(target("2.0"), now) == [
        "Register 1.0",
        "Verify 1.0",
        "Register 2.0",
        "Verify 2.0",
        "Switch 2.0",
        "Settle 2.0",
        "Remove 1.0",
    ]


def test_a_rejected_version_is_not_tried_again_and_the_reason_is_told() -> None:
    now = actual(state("1.0", rejected={"2.0": "it predicts 5 instead of 7"}))
    assert names(target("2.0"), now) == []
    assert reasons(target("2.0"), now) == ["2.0: rejected: it predicts 5 instead of 7"]


def test_after_a_restart_a_rejected_version_leaves_the_old_one_serving() -> None:
    now = restarted(actual(state("1.0", rejected={"2.0": "it does not load"})))
    assert names(target("2.0"), now) == ["Register 1.0", "Verify 1.0"]


def test_a_rejected_version_that_is_the_default_gives_way_and_is_removed() -> None:
    # The keeper was killed between rejecting the version and switching back.
    model = state("1.0", "2.0", default="2.0", settling=True, rejected={"2.0": "it is slow"})
    assert names(target("2.0"), actual(model)) == ["Switch 1.0", "Remove 2.0"]


def test_a_rejected_version_that_serves_stays_if_there_is_no_other() -> None:
    model = state("1.0", rejected={"1.0": "it is slow"})
    assert names(target("1.0"), actual(model)) == []
    failed = state("1.0", versions={"1.0": runs("1.0", verified=False)}, serving=None)
    failed = replace(failed, rejected={"1.0": "it predicts nonsense"})
    assert names(target("1.0"), actual(failed)) == ["Remove 1.0"]


def test_a_rejected_default_version_is_removed_after_another_has_been_verified() -> None:
    loaded = {version: runs(version, verified=False) for version in ("2.0", "1.0")}
    model = ModelState(default="2.0", versions=loaded, rejected={"2.0": "it predicts nonsense"})
    steps = names(target("2.0", "1.0"), actual(model))
    assert steps == ["Verify 1.0", "Switch 1.0", "Remove 2.0"]


def test_other_versions_are_served_too() -> None:
    steps = names(target("2.0", "1.0"), actual())
    assert steps == ["Register 2.0", "Verify 2.0", "Register 1.0", "Verify 1.0"]
    assert names(target("2.0", "1.0"), actual(state("1.0")))[-1] == "Settle 2.0"


def test_a_model_that_is_not_desired_loses_its_default_version_last() -> None:
    now = actual(state("1.0", "2.0", "3.0"))
    assert names(None, now) == ["Remove 2.0", "Remove 3.0", "Remove 1.0"]
    model = states_of(plan_model("m", None, now), now)[-1].models["m"]
    assert (model.versions, model.default, model.serving) == ({}, None, None)
    assert names(None, actual()) == []


def test_other_bytes_under_the_same_version_are_refused_with_both_digests() -> None:
    desired = target("1.0", build="b")
    assert names(desired, actual(state("1.0"))) == []
    [reason] = reasons(desired, actual(state("1.0")))
    assert digest("1.0", "a") in reason
    assert digest("1.0", "b") in reason
    assert "Pack it as another version" in reason


def test_other_bytes_replace_a_version_that_was_never_verified() -> None:
    model = state("1.0")
    loading = replace(model, versions={**model.versions, "2.0": runs("2.0", verified=False)})
    steps = names(target("2.0", build="b"), actual(loading))
    assert steps[:3] == ["Remove 2.0", "Register 2.0", "Verify 2.0"]


def test_a_swap_that_does_not_fit_into_memory_leaves_the_old_version_alone() -> None:
    now = actual(state("1.0"), free=GIB // 2)
    desired = target("2.0", low=2)
    assert names(desired, now) == []
    assert reasons(desired, now) == [
        "2.0: not enough memory: 2 workers need 1.1 GB, and 537 MB are free. Stop another model or "
        "use fewer workers"
    ]
    unknown = replace(now, footprints={}, memory_free=100 << 20)
    assert reasons(desired, unknown) == [
        "2.0: not enough memory: 2 workers need at least 537 MB, and 105 MB are free. Stop another "
        "model or use fewer workers"
    ]


def test_a_version_that_is_only_kept_for_a_rollback_makes_room() -> None:
    model = state("2.0", "1.0", previous=Previous("1.0", NOW - 10))
    desired = target("3.0", keep=60)
    assert names(desired, actual(model, free=0))[:2] == ["Remove 1.0", "Register 3.0"]
    assert names(desired, actual(model))[0] == "Register 3.0"
    bigger = target("3.0", keep=60, low=3)  # nothing is removed in vain
    assert names(bigger, actual(model, free=0)) == []


def test_models_that_are_not_desired_make_room_for_others() -> None:
    now = Actual(models={"old": state("1.0")}, now=NOW, memory_free=0, footprints={})
    now = replace(now, footprints={digest("2.0"): GIB // 2})
    made = plan(Desired(models={"m": target("2.0")}), now)
    assert [(s.model, s.version) for s in made.steps][:2] == [("old", "1.0"), ("m", "2.0")]


def test_optional_models_get_the_memory_that_required_ones_leave() -> None:
    optional = target("1.0").model_copy(update={"required": False})
    desired = Desired(models={"a": optional, "b": target("2.0")})
    made = plan(desired, actual(free=GIB // 2))
    assert {step.model for step in made.steps} == {"b"}
    assert [each.model for each in made.problems] == ["a"]


def test_workers_that_torchserve_has_given_up_are_repaired_before_anything_else() -> None:
    model = state("1.0", versions={"1.0": runs("1.0", given_up=True, ready=0, workers=2)})
    first = plan_model("m", target("2.0"), actual(model)).steps[0]
    assert isinstance(first, Scale)
    assert (first.version, first.workers, first.workers_before) == ("1.0", 2, 2)


def test_a_repair_that_does_not_fit_into_memory_is_a_problem() -> None:
    dead = runs("1.0", given_up=True, ready=0, workers=2, memory=0)
    now = actual(state("1.0", versions={"1.0": dead}), free=GIB // 2)
    assert names(target("1.0", low=2), now) == []
    [reason] = reasons(target("1.0", low=2), now)
    assert reason.startswith("1.0: not enough memory: 2 workers need 1.1 GB, and 537 MB are free.")


def test_fewer_workers_need_no_memory() -> None:
    model = state("1.0", versions={"1.0": runs("1.0", workers=3)})
    assert names(target("1.0"), actual(model, free=0)) == ["Scale 1.0"]


def test_the_number_of_workers_is_brought_between_its_bounds() -> None:
    def scaled(running: int) -> list[tuple[int, int]]:
        model = state("1.0", versions={"1.0": runs("1.0", workers=running)})
        steps = plan_model("m", target("1.0", low=2, high=3), actual(model)).steps
        assert all(isinstance(step, Scale) for step in steps)
        return [(s.workers_before, s.workers) for s in steps if isinstance(s, Scale)]

    assert [scaled(count) for count in (1, 2, 3, 4)] == [[(1, 2)], [], [], [(4, 3)]]


def test_the_report_shows_the_memory_of_every_step() -> None:
    now = actual(state("1.0"))
    shown = report(plan_model("m", target("2.0"), now), now).steps
    assert [(s.action, s.change) for s in shown] == [
        ("register", "0 -> 1 worker"),
        ("verify", ""),
        ("switch", "1.0 -> 2.0"),
        ("settle", ""),
        ("remove", "1 -> 0 workers"),
    ]
    half = GIB // 2
    assert [s.memory_before for s in shown] == [half, 2 * half, 2 * half, 2 * half, 2 * half]
    assert [s.memory_after for s in shown] == [2 * half, 2 * half, 2 * half, 2 * half, half]


def test_the_report_does_not_guess_a_memory_that_was_never_measured() -> None:
    now = replace(actual(state("1.0")), footprints={})
    shown = report(plan_model("m", target("2.0"), now), now).steps
    assert shown[0].memory_before == GIB // 2
    assert {s.memory_after for s in shown} == {None}


def test_steps_that_wait_name_what_they_wait_for() -> None:
    settling = state("1.0", "2.0", default="2.0", settling=True, previous=Previous("1.0", NOW))
    [settle, _] = plan_model("m", target("2.0"), actual(settling)).steps
    assert settle == Settle("m", "2.0", "it is compared with 1.0 for 30 s", previous="1.0")
    [verify] = plan_model(
        "m", target("1.0"), actual(state("1.0", versions={"1.0": runs("1.0", verified=False)}))
    ).steps
    assert isinstance(verify, Verify)


def test_a_state_without_its_model_is_planned_from_nothing() -> None:
    assert plan(Desired(), Actual()).steps == ()
    nothing = ModelState(default="9.9", serving="9.9", serving_archive=None)
    assert names(target("1.0"), actual(nothing)) == ["Register 1.0", "Verify 1.0"]
