"""Changes of the desired state by commands."""

from __future__ import annotations

import pytest
from keeper_fake import desired

from vestal.errors import UsageError
from vestal.fleet import changes
from vestal.fleet.desired import (
    Canary,
    Desired,
    ModelTarget,
    Shadow,
    VersionTarget,
    Workers,
)
from vestal.gateway.settings import Gateway

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


def with_candidates() -> Desired:
    three = desired(mnist=["1.0", "2.0", "3.0"]).models["mnist"]
    three = three.model_copy(
        update={"canary": Canary(version="2.0", weight=10), "shadow": Shadow(version="3.0")}
    )
    return Desired(models={"mnist": three}, gateway=Gateway())


def test_a_canary_that_becomes_the_default_is_no_canary_any_more():
    mnist = changes.set_default(with_candidates(), "mnist", "2.0").models["mnist"]
    assert (mnist.default, mnist.canary, mnist.shadow) == ("2.0", None, Shadow(version="3.0"))


def test_a_canary_or_shadow_that_is_unregistered_ends():
    mnist = changes.unregister(with_candidates(), "mnist", "2.0").models["mnist"]
    assert (mnist.canary, mnist.shadow) == (None, Shadow(version="3.0"))
    mnist = changes.unregister(with_candidates(), "mnist", "3.0").models["mnist"]
    assert (mnist.canary, mnist.shadow) == (Canary(version="2.0", weight=10), None)


def test_changes_of_canary_shadow_and_gateway_are_described():
    before = desired(mnist=["1.0", "2.0", "3.0"])
    after = with_candidates()
    assert changes.describe(before, after) == [
        "mnist: canary 2.0 gets 10 %",
        "mnist: shadow 3.0 gets 100 %",
        "gateway: added",
    ]
    assert changes.describe(after, before) == [
        "mnist: canary ended",
        "mnist: shadow ended",
        "gateway: removed",
    ]
    moved = after.model_copy(update={"gateway": Gateway(port=9000)})
    assert changes.describe(after, moved) == ["gateway: settings changed"]


@pytest.mark.parametrize("version", ["1.0", "4.0"])
def test_a_canary_must_be_another_version_of_the_model(version):
    target = with_candidates().models["mnist"].model_dump(mode="json")
    with pytest.raises(ValueError, match=f"the canary is version {version}; expected a version"):
        ModelTarget.model_validate({**target, "canary": {"version": version, "weight": 1}})


def test_a_canary_without_a_gateway_is_refused():
    state = with_candidates().model_dump(mode="json")
    assert Desired.model_validate(state) == with_candidates()
    with pytest.raises(ValueError, match="mnist has a canary or a shadow, but there is no gateway"):
        Desired.model_validate({**state, "gateway": None})
