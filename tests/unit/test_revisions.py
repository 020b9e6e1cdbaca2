"""The history of the desired state, and rollbacks in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestal.errors import UsageError
from vestal.fleet.desired import Desired, ModelTarget, VersionTarget
from vestal.fleet.revisions import START, Revisions
from vestal.fleet.state import StateStore
from vestal.fleet.status import Source

TEST = Source(command="test", user="me")


def desired(**defaults: str) -> Desired:
    return Desired(
        models={
            name: ModelTarget(
                default=version,
                versions={version: VersionTarget(archive=f"{name}.mar", sha256="a" * 64)},
            )
            for name, version in defaults.items()
        }
    )


def test_a_start_by_arguments_is_stored_before_the_first_change(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state")
    revisions = Revisions(store, stored=False)
    assert revisions.number == 0
    assert revisions.all() == []
    revisions.finish(0, "done")
    assert revisions.add(desired(m="1.0"), desired(m="2.0"), TEST).number == 2
    assert [(each.source.command, each.outcome) for each in revisions.all()] == [
        ("test", None),
        (START, "done"),
    ]
    assert revisions.add(desired(m="2.0"), desired(m="3.0"), TEST).number == 3
    assert len(revisions.all()) == 3


def test_one_model_or_everything_is_rolled_back(tmp_path: Path) -> None:
    revisions = Revisions(StateStore(tmp_path / "state"), stored=False)
    now = desired(a="2.0", b="2.0")
    revisions.add(desired(a="1.0", b="1.0"), desired(a="2.0", b="1.0"), TEST)
    revisions.add(desired(a="2.0", b="1.0"), now, TEST)
    assert revisions.before(now, "a") == desired(a="1.0", b="2.0")
    assert revisions.before(now, "b") == desired(a="2.0", b="1.0")
    assert revisions.before(now, None) == desired(a="2.0", b="1.0")


def test_without_an_earlier_state_a_rollback_is_a_usage_error(tmp_path: Path) -> None:
    revisions = Revisions(StateStore(tmp_path / "state"), stored=False)
    for model in (None, "m"):
        with pytest.raises(UsageError, match="in the history"):
            revisions.before(desired(m="1.0"), model)
