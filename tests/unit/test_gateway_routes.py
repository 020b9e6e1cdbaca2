"""Which versions get requests: what is desired, as far as it is READY and verified."""

from __future__ import annotations

import pytest
from keeper_fake import desired

from vestal.fleet.actual import Actual, ModelState, VersionState
from vestal.fleet.desired import Canary, Desired, Shadow
from vestal.fleet.gateway_routes import model_routes
from vestal.gateway.settings import Gateway, Sticky
from vestal.gateway.setup import ModelRoutes, Share


def with_shares(canary: Canary | None = None, shadow: Shadow | None = None) -> Desired:
    mnist = desired(mnist=["1.0", "2.0", "3.0"]).models["mnist"]
    mnist = mnist.model_copy(update={"canary": canary, "shadow": shadow})
    return Desired(models={"mnist": mnist}, gateway=Gateway())


def runs(default: str | None = "1.0", **versions: tuple[int, bool]) -> Actual:
    """`v2=(1, True)`: version 2.0 has one READY worker and is verified."""
    states = {
        f"{name[1:]}.0": VersionState("m.mar", "a" * 64, 1, ready=ready, verified=verified)
        for name, (ready, verified) in versions.items()
    }
    return Actual(models={"mnist": ModelState(default=default, versions=states)})


OK = (1, True)
CANARY = Canary(version="2.0", weight=10, sticky=Sticky(header="x-user"))
SHADOW = Shadow(version="3.0", sample=50)


def test_a_canary_and_a_shadow_get_their_shares() -> None:
    assert model_routes(with_shares(CANARY, SHADOW), runs(v1=OK, v2=OK, v3=OK)) == (
        ModelRoutes(
            "mnist",
            "1.0",
            ("1.0", "2.0", "3.0"),
            canary=Share("2.0", 10, Sticky(header="x-user")),
            shadow=Share("3.0", 50),
        ),
    )


@pytest.mark.parametrize("state", [(0, True), (1, False), (0, False)])
def test_a_version_without_ready_workers_or_unverified_gets_nothing(
    state: tuple[int, bool],
) -> None:
    [routes] = model_routes(with_shares(CANARY, SHADOW), runs(v1=OK, v2=state, v3=state))
    assert (routes.default, routes.canary, routes.shadow) == ("1.0", None, None)


def test_a_canary_that_has_become_the_default_gets_everything() -> None:
    [routes] = model_routes(with_shares(CANARY), runs("2.0", v1=OK, v2=OK))
    assert (routes.default, routes.canary) == ("2.0", None)


def test_routes_exist_before_torchserve_has_the_versions() -> None:
    assert model_routes(with_shares(CANARY), Actual()) == (
        ModelRoutes("mnist", "1.0", ("1.0", "2.0", "3.0")),
    )


def test_a_rejected_version_has_no_route() -> None:
    state = ModelState(rejected={"1.0": "it does not load", "2.0": "it does not load"})
    [routes] = model_routes(
        with_shares(CANARY), Actual(models={"mnist": runs(v1=OK).models["mnist"]})
    )
    assert routes.versions == ("1.0", "2.0", "3.0")
    actual = Actual(models={"mnist": state})
    assert model_routes(with_shares(CANARY), actual) == ()
    state = ModelState("1.0", runs(v1=OK).models["mnist"].versions, rejected={"2.0": "broken"})
    [routes] = model_routes(with_shares(CANARY), Actual(models={"mnist": state}))
    assert routes == ModelRoutes("mnist", "1.0", ("1.0", "3.0"))


def test_the_default_of_torchserve_counts_until_a_swap_is_made() -> None:
    [routes] = model_routes(with_shares(), runs("3.0", v3=OK))
    assert routes.default == "3.0"


def test_a_version_that_is_about_to_be_removed_has_no_route() -> None:
    actual = runs("1.0", v1=OK, v2=OK, v3=OK)
    [routes] = model_routes(
        with_shares(CANARY, SHADOW), actual, {("mnist", "2.0"), ("mnist", "3.0")}
    )
    assert routes == ModelRoutes("mnist", "1.0", ("1.0",))


def test_a_model_whose_last_version_is_about_to_be_removed_has_no_route() -> None:
    actual = Actual(models={"mnist": runs(v1=OK).models["mnist"]})
    assert model_routes(Desired(), actual, {("mnist", "1.0")}) == ()


def test_models_and_versions_of_others_have_routes_if_their_names_fit() -> None:
    state = VersionState("m.mar", "a" * 64, 1, ready=1, verified=True)
    actual = Actual(
        models={
            "theirs": ModelState(default="1", versions={"1": state, "2/%REQ(x)%": state}),
            "a b": ModelState(default="1", versions={"1": state}),
        }
    )
    assert model_routes(Desired(), actual) == (ModelRoutes("theirs", "1", ("1",)),)
