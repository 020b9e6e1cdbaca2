"""The history of the desired state, and what `vestal rollback` returns to."""

from __future__ import annotations

import pytest
from keeper_fake import SOURCE, desired

from vestal.errors import UsageError
from vestal.fleet.revisions import START, Revisions
from vestal.fleet.state import StateStore


@pytest.fixture
def revisions(tmp_path):
    """mnist 1.0, 2.0, and 3.0, which failed."""
    history = Revisions(StateStore(tmp_path / "state"), stored=False)
    history.add(desired(mnist=["1.0"]), desired(mnist=["2.0"], other=["1.0"]), SOURCE)
    history.finish(history.number, "done")
    history.add(desired(), desired(mnist=["3.0"], other=["1.0"]), SOURCE)
    history.finish(history.number, "failed", "it predicts something else")
    return history


def test_a_failed_change_is_undone(revisions):
    now = desired(mnist=["3.0"], other=["1.0"])
    assert revisions.before(now, None) == desired(mnist=["2.0"], other=["1.0"])
    assert revisions.before(now, "mnist", ["2.0"]) == desired(mnist=["2.0"], other=["1.0"])


def test_a_version_that_failed_is_not_returned_to(revisions):
    now = desired(mnist=["2.0"], other=["1.0"])
    assert revisions.before(now, None) == desired(mnist=["1.0"])
    assert revisions.before(now, "mnist") == desired(mnist=["1.0"], other=["1.0"])


def test_a_version_that_served_is_returned_to_although_another_model_failed(revisions):
    """The revision of 3.0 failed because of another model, and 3.0 itself served."""
    now = desired(mnist=["2.0"])
    assert revisions.before(now, "mnist", ["2.0", "3.0"]) == desired(mnist=["3.0"])


def test_without_an_earlier_state_there_is_nothing_to_return_to(tmp_path, revisions):
    with pytest.raises(UsageError, match="no earlier version of other"):
        revisions.before(desired(other=["1.0"]), "other")
    empty = Revisions(StateStore(tmp_path / "empty"), stored=False)
    with pytest.raises(UsageError, match="no earlier state"):
        empty.before(desired(), None)


def test_a_start_by_arguments_is_stored_before_the_first_change(tmp_path):
    store = StateStore(tmp_path / "state")
    revisions = Revisions(store, stored=False)
    assert revisions.number == 0
    assert revisions.all() == []
    revisions.finish(0, "done")
    assert revisions.add(desired(m=["1.0"]), desired(m=["2.0"]), SOURCE).number == 2
    assert [(each.source.command, each.outcome) for each in revisions.all()] == [
        (SOURCE.command, None),
        (START, "done"),
    ]
    assert revisions.add(desired(m=["2.0"]), desired(m=["3.0"]), SOURCE).number == 3
    assert len(revisions.all()) == 3
