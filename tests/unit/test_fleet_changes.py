"""Changes of the desired state by commands."""

from __future__ import annotations

import pytest
from keeper_fake import desired

from vestal.errors import UsageError
from vestal.fleet import changes
from vestal.fleet.desired import Desired, VersionTarget, Workers

TWO = desired(mnist=["1.0", "2.0"], other=["1.0"])


def target(content: str = "a") -> VersionTarget:
    return VersionTarget(archive="mnist-3.0.mar", sha256=content * 64)


def test_the_first_version_of_a_model_is_its_default():
    made = changes.register(Desired(), "mnist", "3.0", target())
    assert made.models["mnist"].default == "3.0"


def test_a_further_version_is_registered_without_traffic():
    made = changes.register(TWO, "mnist", "3.0", target())
    assert (made.models["mnist"].default, list(made.models["mnist"].versions)) == (
        "1.0",
        ["1.0", "2.0", "3.0"],
    )
    assert list(TWO.models["mnist"].versions) == ["1.0", "2.0"]


def test_default_moves_and_the_previous_default_stays():
    made = changes.register(TWO, "mnist", "3.0", target(), default=True).models["mnist"]
    assert (made.default, "1.0" in made.versions) == ("3.0", True)


def test_the_same_version_with_other_bytes_is_refused_with_both_digests():
    once = changes.register(TWO, "mnist", "3.0", target("a"))
    assert changes.register(once, "mnist", "3.0", target("a")) == once
    with pytest.raises(UsageError, match=r"sha256 aaaaaaaaaaaa.*sha256 bbbbbbbbbbbb"):
        changes.register(once, "mnist", "3.0", target("b"))


def test_scale_changes_the_default_version_or_the_named_one():
    bounds = Workers(min=1, max=3)
    made = changes.scale(TWO, "mnist", None, bounds).models["mnist"].versions
    assert (made["1.0"].workers.max, made["2.0"].workers.max) == (3, 1)
    made = changes.scale(TWO, "mnist", "2.0", bounds).models["mnist"].versions
    assert (made["1.0"].workers.max, made["2.0"].workers.max) == (1, 3)


def test_set_default_keeps_both_versions():
    made = changes.set_default(TWO, "mnist", "2.0").models["mnist"]
    assert (made.default, list(made.versions)) == ("2.0", ["1.0", "2.0"])


def test_unregister_a_version_a_model_and_the_last_version():
    assert list(changes.unregister(TWO, "mnist", "2.0").models["mnist"].versions) == ["1.0"]
    assert list(changes.unregister(TWO, "mnist", None).models) == ["other"]
    assert list(changes.unregister(TWO, "other", "1.0").models) == ["mnist"]


def test_the_default_version_cannot_be_unregistered_while_others_are_served():
    with pytest.raises(UsageError, match=r"`vestal set-default mnist 2\.0`"):
        changes.unregister(TWO, "mnist", "1.0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: changes.scale(d, "mnits", None, Workers()), "no model mnits.*mean mnist"),
        (lambda d: changes.set_default(d, "mnist", "20"), r"mnist 20 is not registered"),
        (lambda d: changes.set_default(d, "mnist", "9.9.9"), r"served: 1\.0, 2\.0"),
        (lambda d: changes.unregister(d, "zzz", None), "served: mnist, other"),
        (lambda d: changes.unregister(d, "mnist", "3.0"), "mnist 3.0 is not registered"),
        (lambda d: changes.split_name(d, "mnist-9.9"), "mnist 9.9 is not registered"),
        (lambda d: changes.split_name(d, "nothing-1.0"), "no model nothing-1.0"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest_ones(change, message):
    with pytest.raises(UsageError, match=message):
        change(TWO)


def test_a_name_may_contain_dashes():
    state = desired(**{"a": ["1.0", "b-2.0"], "a-b": ["2.0"]})
    assert changes.split_name(state, "a-b") == ("a-b", None)
    assert changes.split_name(state, "a-1.0") == ("a", "1.0")
    assert changes.split_name(state, "a-b-2.0") == ("a-b", "2.0")


@pytest.mark.parametrize(("text", "bounds"), [("1", (1, 1)), ("2-4", (2, 4)), (" 3 ", (3, 3))])
def test_workers_are_a_number_or_a_range(text, bounds):
    found = changes.parse_workers(text)
    assert (found.min, found.max) == bounds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, "expected a number or MIN-MAX") for text in ("", "x", "-1", "1.5", "1-", "²")),
        ("0", "0 workers"),
        ("0-2", "0 workers"),
        ("4-2", "Write 2-4"),
        ("100000", "at most 1,000"),
        ("9" * 5000, "expected a number"),
    ],
)
def test_other_workers_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        changes.parse_workers(text)


def test_changes_are_described_in_sentences():
    after = changes.register(TWO, "mnist", "3.0", target(), default=True)
    after = changes.scale(after, "mnist", "2.0", Workers(min=1, max=4))
    after = changes.unregister(after, "other", None)
    after = changes.register(after, "new", "1.0", target())
    assert changes.describe(TWO, after) == [
        "mnist 1.0 -> 3.0",
        "mnist 2.0: 1 -> 1-4 workers",
        "new 1.0 added",
        "other removed",
    ]
    assert changes.describe(after, changes.unregister(after, "mnist", "2.0")) == [
        "mnist 2.0 unregistered"
    ]
    assert changes.describe(TWO, TWO) == []
