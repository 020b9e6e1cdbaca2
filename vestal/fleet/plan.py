"""The plan: the steps that bring what runs to what is desired. Pure functions.

A plan is made step by step until nothing is left to do: `ModelPlan.next_step` returns the most
urgent step, and `simulate` the state after it. The plan after a step is therefore the rest of the
plan before it, and the keeper can start over at any point.
"""

from __future__ import annotations

from typing import Literal

from vestal.fleet.actual import Actual
from vestal.fleet.desired import Desired, ModelTarget
from vestal.fleet.model_plan import ModelPlan
from vestal.fleet.simulate import simulate
from vestal.fleet.status import PlannedProblem, PlannedStep, PlanReport
from vestal.fleet.steps import Plan, Problem, Register, Remove, Scale, Settle, Step, Switch, Verify

Action = Literal["register", "verify", "switch", "settle", "scale", "remove"]
_ACTIONS: dict[type[Step], Action] = {
    Register: "register",
    Verify: "verify",
    Switch: "switch",
    Settle: "settle",
    Scale: "scale",
    Remove: "remove",
}
_MOST_STEPS = 1000
"""More steps than any plan of one model needs."""


def plan(desired: Desired, actual: Actual) -> Plan:
    """Plan all models.

    Models that are not desired any more come first, because they free memory, and optional models
    come last. The keeper works on several models at the same time: the order is only that in which
    memory is given to them.
    """
    removed = sorted(actual.models.keys() - desired.models.keys())
    kept = sorted(desired.models, key=lambda name: not desired.models[name].required)
    steps: list[Step] = []
    problems: list[Problem] = []
    for name in [*removed, *kept]:
        part, actual = _unfold(name, desired.models.get(name), actual)
        steps += part.steps
        problems += part.problems
    return Plan(tuple(steps), tuple(problems))


def plan_model(name: str, target: ModelTarget | None, actual: Actual) -> Plan:
    """Plan one model; `target`: None if it should not run.

    `actual.memory_free` should not contain what steps of other models are about to use.
    """
    return _unfold(name, target, actual)[0]


def report(steps: Plan, actual: Actual) -> PlanReport:
    """Describe a plan for people, with the memory of all workers before and after each step."""
    planned = []
    used: int | None = sum(v.memory for m in actual.models.values() for v in m.versions.values())
    for step in steps.steps:
        after = None if used is None or step.memory is None else used + step.memory
        planned.append(
            PlannedStep(
                action=_ACTIONS[type(step)],
                model=step.model,
                version=step.version,
                change=_change(step, actual),
                why=step.why,
                memory_before=used,
                memory_after=after,
            )
        )
        actual, used = simulate(step, actual), after
    problems = [
        PlannedProblem(model=each.model, version=each.version, reason=each.reason)
        for each in steps.problems
    ]
    return PlanReport(steps=planned, problems=problems)


def _unfold(name: str, target: ModelTarget | None, actual: Actual) -> tuple[Plan, Actual]:
    """Return the plan of one model, and the state after it."""
    steps: list[Step] = []
    while len(steps) < _MOST_STEPS:
        step, problems = ModelPlan(name, target, actual).next_step()
        if step is None:
            return Plan(tuple(steps), tuple(problems)), actual
        steps.append(step)
        actual = simulate(step, actual)
    raise RuntimeError(f"the plan of {name} has no end: {steps[-3:]}")


def _change(step: Step, actual: Actual) -> str:
    state = actual.models.get(step.model)
    match step:
        case Register():
            return _workers(0, step.workers)
        case Scale():
            return _workers(step.workers_before, step.workers)
        case Remove() if state:
            return _workers(state.versions[step.version].workers, 0)
        case Switch() if state and state.default:
            return f"{state.default} -> {step.version}"
    return ""


def _workers(before: int, after: int) -> str:
    return f"{before} -> {after} {'worker' if after == 1 else 'workers'}"
