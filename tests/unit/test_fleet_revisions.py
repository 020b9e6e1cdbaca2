"""What `vestal rollback` returns to."""

from __future__ import annotations

import pytest
from keeper_fake import SOURCE, desired

from vestal.errors import UsageError
from vestal.fleet.revisions import Revisions
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
