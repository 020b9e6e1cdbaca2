"""What the keeper knows of the versions in TorchServe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_adopting import description, observed

from vestal.fleet.knowledge import Knowledge
from vestal.fleet.state import StateStore
from vestal.fleet.steps import Register, Step, Verify

SHA = "a" * 64
REGISTER = Register("m", "1.0", "", archive="m-1.0.mar", sha256=SHA, workers=1)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


def versions(knowledge: Knowledge, *seen: str) -> set[str]:
    actual = knowledge.actual({"m": observed(*map(description, seen))}, ())
    return set(actual.models["m"].versions)


def test_a_version_is_known_as_soon_as_its_registration_begins(store: StateStore) -> None:
    knowledge = Knowledge(store, stored=False)
    knowledge.begin(REGISTER)
    assert versions(knowledge, "1.0") == {"1.0"}
    knowledge.end(REGISTER, None)  # interrupted: TorchServe has it
    assert versions(knowledge, "1.0", "2.0") == {"1.0"}


def test_a_version_that_others_replaced_is_theirs(store: StateStore) -> None:
    knowledge = Knowledge(store, stored=False)
    knowledge.begin(REGISTER)
    actual = knowledge.actual({"m": observed(description("1.0"))}, ())
    knowledge.sync(actual, ["m"])
    knowledge.disown("m", "1.0")
    assert versions(knowledge, "1.0") == set()


def test_a_restart_of_torchserve_keeps_what_served(store: StateStore) -> None:
    knowledge = Knowledge(store, stored=True)
    steps: list[Step] = [REGISTER, Verify("m", "1.0", "")]
    for step in steps:
        before = knowledge.actual({"m": observed(description("1.0"))}, ())
        knowledge.begin(step)
        knowledge.end(step, before)
    knowledge.forget_registrations()
    state = knowledge.state("m")
    assert (state.default, state.versions, state.serving) == (None, {}, "1.0")
    assert Knowledge(store, stored=True).state("m").serving_archive == ("m-1.0.mar", SHA)


def test_memory_that_a_step_will_use_is_not_free_for_other_models(store: StateStore) -> None:
    knowledge = Knowledge(store, stored=False)
    knowledge.begin(replace(REGISTER, memory=1 << 50))
    assert knowledge.actual({}, ()).memory_free == 0
    assert knowledge.actual({}, (), claimed_except="m").memory_free > 0
    knowledge.end(REGISTER, None)
    assert knowledge.actual({}, ()).memory_free > 0
