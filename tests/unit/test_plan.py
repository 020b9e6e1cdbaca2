"""The plan as a pure function: what holds for every desired and every actual state."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from plan_states import (
    VERSIONS,
    actual,
    actuals,
    restarted,
    state,
    states_of,
    targets,
)

from vestal.fleet.actual import Actual
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.plan import plan, plan_model, report
from vestal.fleet.simulate import simulate
from vestal.fleet.steps import Plan, Register, Remove, Scale, Settle, Step, Verify

any_target = st.none() | targets(builds="ab")


@settings(deadline=None)
@given(any_target, actuals())
def test_applied_to_its_own_result_the_plan_is_empty(
    target: ModelTarget | None, before: Actual
) -> None:
    made = plan_model("m", target, before)
    after = states_of(made, before)[-1]
    assert plan_model("m", target, after) == Plan((), made.problems)


@settings(deadline=None)
@given(any_target, actuals())
def test_the_plan_after_a_step_is_the_rest_of_the_plan(
    target: ModelTarget | None, before: Actual
) -> None:
    made = plan_model("m", target, before)
    for done, now in enumerate(states_of(made, before)):
        assert plan_model("m", target, now) == replace(made, steps=made.steps[done:])


@settings(deadline=None)
@given(targets(builds="ab"), actuals())
def test_once_a_verified_version_serves_one_always_does(
    target: ModelTarget, before: Actual
) -> None:
    served = False
    for now in states_of(plan_model("m", target, before), before):
        serves = is_served(now)
        assert serves or not served
        served = serves


@settings(deadline=None)
@given(any_target, actuals())
def test_a_rejected_version_never_becomes_the_default(
    target: ModelTarget | None, before: Actual
) -> None:
    states = states_of(plan_model("m", target, before), before)
    for earlier, later in pairwise(states):
        model = later.models["m"]
        changed = "m" not in earlier.models or earlier.models["m"].default != model.default
        assert not (changed and model.default in model.rejected)


@settings(deadline=None)
@given(any_target, actuals())
def test_the_default_version_is_removed_only_as_the_last_one(
    target: ModelTarget | None, before: Actual
) -> None:
    made = plan_model("m", target, before)
    for step, now in zip(made.steps, states_of(made, before), strict=False):
        model = now.models.get("m")
        if isinstance(step, Remove) and model is not None and step.version == model.default:
            assert list(model.versions) == [step.version]


@settings(deadline=None)
@given(any_target, actuals())
def test_no_version_gets_more_workers_than_its_maximum(
    target: ModelTarget | None, before: Actual
) -> None:
    for step in plan_model("m", target, before).steps:
        if isinstance(step, Register | Scale):
            assert target is not None
            assert step.workers >= 1
            if step.version in target.versions:
                assert step.workers <= target.versions[step.version].workers.max


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("mno"), targets()), actuals("mno"))
def test_all_models_together_never_use_more_memory_than_there_is(
    models: dict[str, ModelTarget], before: Actual
) -> None:
    made = plan(Desired(models=models), before)
    assert all(now.memory_free >= 0 for now in states_of(made, before))


@settings(deadline=None)
@given(any_target, actuals())
def test_the_number_of_steps_is_bounded(target: ModelTarget | None, before: Actual) -> None:
    # A version is at most repaired, removed, registered, verified, scaled and removed again.
    assert len(plan_model("m", target, before).steps) <= 6 * len(VERSIONS) + 4


@settings(deadline=None)
@given(st.none() | targets(), targets(), st.sets(st.sampled_from(VERSIONS)), st.data())
def test_a_crash_at_any_point_leads_to_the_same_end(
    first: ModelTarget | None, second: ModelTarget, rejected: set[str], data: st.DataObject
) -> None:
    before = actual(state(), free=1 << 40)
    if first is not None:
        before = states_of(plan_model("m", first, before), before)[-1]
        rejected = rejected - {first.default}
    model = replace(before.models["m"], rejected=dict.fromkeys(rejected, "it predicts nonsense"))
    before = replace(before, models={"m": model})
    states = states_of(plan_model("m", second, before), before)
    crashed = restarted(data.draw(st.sampled_from(states)))
    again = states_of(plan_model("m", second, crashed), crashed)[-1]
    assert end(again, second) == end(states[-1], second)


@settings(deadline=None)
@given(targets(), targets(), targets())
def test_a_desired_state_that_changes_in_mid_swap_is_reached(
    first: ModelTarget, second: ModelTarget, third: ModelTarget
) -> None:
    before = actual(free=1 << 40)
    before = states_of(plan_model("m", first, before), before)[-1]
    for now in states_of(plan_model("m", second, before), before):
        after = states_of(plan_model("m", third, now), now)
        assert all(is_served(each) for each in after)
        assert after[-1].models["m"].default == third.default
        assert after[-1].models["m"].serving == third.default
        assert set(third.versions) <= set(after[-1].models["m"].versions)


@settings(deadline=None)
@given(targets(), targets(), st.data())
def test_whichever_steps_fail_a_verified_version_serves_until_the_end(
    first: ModelTarget, second: ModelTarget, data: st.DataObject
) -> None:
    before = actual(free=1 << 40)
    now = states_of(plan_model("m", first, before), before)[-1]
    done = 0
    while steps := plan_model("m", second, now).steps:
        step, done = steps[0], done + 1
        assert done < 50
        can_fail = isinstance(step, Register | Verify | Settle)
        if can_fail and data.draw(st.booleans()):
            now = failed(step, now, still_registered=data.draw(st.booleans()))
        else:
            now = simulate(step, now)
        assert is_served(now)
    model = now.models["m"]
    assert model.serving == model.default
    assert model.default not in model.rejected
    assert second.default in (model.default, *model.rejected)
    assert not model.versions.keys() & model.rejected.keys()
    assert set(second.versions) <= model.versions.keys() | model.rejected.keys()


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("mno"), targets(builds="ab")), actuals("mno"))
def test_every_plan_can_be_shown(models: dict[str, ModelTarget], before: Actual) -> None:
    made = plan(Desired(models=models), before)
    shown = report(made, before)
    assert [(each.model, each.version) for each in shown.steps] == [
        (each.model, each.version) for each in made.steps
    ]
    assert all(each.why for each in shown.steps)
    assert all(each.reason for each in shown.problems)


def failed(step: Step, now: Actual, *, still_registered: bool) -> Actual:
    """The state after a step that failed, and whose version was rejected."""
    registers = isinstance(step, Register) and still_registered
    model = (simulate(step, now) if registers else now).models["m"]
    rejected = {**model.rejected, step.version: "it predicts nonsense"}
    return replace(now, models={"m": replace(model, rejected=rejected, settling=False)})


def is_served(now: Actual) -> bool:
    model = now.models.get("m")
    version = model.versions.get(model.default or "") if model else None
    return version is not None and version.verified


def end(now: Actual, target: ModelTarget) -> object:
    """What must not depend on crashes: a version that is kept for a rollback may be gone."""
    model = now.models["m"]
    versions = set()
    for version, found in model.versions.items():
        if version in target.versions:
            bounds = target.versions[version].workers
            versions.add(version)
            assert bounds.min <= found.workers <= bounds.max
    return model.default, model.serving, model.settling, versions
