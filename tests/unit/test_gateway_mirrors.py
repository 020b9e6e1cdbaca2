"""The gateway's routes for a shadow version: exactly the requests that are copied are marked."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vestal.gateway.clusters import clusters
from vestal.gateway.listeners import listener
from vestal.gateway.routes import routes
from vestal.gateway.settings import Gateway
from vestal.gateway.setup import ModelRoutes, Setup, Share

API = "/predictions/m"
COMPARED = [{"header": {"key": "x-vestal-compare", "value": "3.0"}}]


@pytest.fixture
def routed(tmp_path: Path):
    def make(shadow: Share | None, canary: Share | None = None):
        local = ("127.0.0.1", 1)
        model = ModelRoutes("m", "1.0", ["1.0", "2.0", "3.0"], canary, shadow)
        return Setup(
            settings=Gateway(),
            port=1,
            torchserve=local,
            keeper=local,
            max_body=1000,
            folder=tmp_path,
            admin=tmp_path / "admin",
            access_log=tmp_path / "log",
            models=[model],
        )

    return make


def routes_of(setup, path=API):
    found = routes(setup)["virtual_hosts"][0]["routes"]
    return [each for each in found if each["match"].get("path") == path]


def test_a_part_of_the_requests_is_marked_and_copied(routed):
    copied, plain = routes_of(routed(Share("3.0", 2.5)))
    (mirror,) = copied["route"]["request_mirror_policies"]
    assert mirror["cluster"] == "m/3.0/shadow"
    assert "runtime_fraction" not in mirror
    assert copied["request_headers_to_add"] == COMPARED
    fraction = copied["match"]["runtime_fraction"]["default_value"]
    assert fraction == {"numerator": 25_000, "denominator": "MILLION"}
    assert "request_mirror_policies" not in plain["route"]
    assert "request_headers_to_add" not in plain
    assert copied["route"]["cluster"] == plain["route"]["cluster"] == "m/1.0"


@pytest.mark.parametrize("shadow", [None, Share("3.0", 0)])
def test_without_a_share_nothing_is_copied(routed, shadow):
    (plain,) = routes_of(routed(shadow))
    assert "request_mirror_policies" not in plain["route"]


@pytest.mark.parametrize("path", [f"{API}/1.0", f"{API}/3.0", "/explanations/m"])
def test_requests_for_a_version_and_explanations_are_not_copied(routed, path):
    (plain,) = routes_of(routed(Share("3.0", 100)), path)
    assert "request_mirror_policies" not in plain["route"]


def test_a_canary_gets_its_share_of_the_copied_requests(routed):
    """Envoy chooses both by the same random number, modulo the one sum and the other."""
    copied, _ = routes_of(routed(Share("3.0", 0.5), Share("2.0", 50)))
    weights = [each["weight"] for each in copied["route"]["weighted_clusters"]["clusters"]]
    assert math.gcd(sum(weights), 1_000_000) == 1


def test_callers_cannot_set_the_marks(routed):
    (chain,) = listener(routed(None))["filter_chains"]
    text = str(chain["filters"][0]["typed_config"]["early_header_mutation_extensions"])
    assert "{'remove': 'x-vestal-compare'}" in text
    assert "{'remove': 'x-vestal-shadow'}" in text


def test_copies_are_marked_and_named_by_their_version(routed):
    (shadow,) = [c for c in clusters(routed(Share("3.0", 1))) if c["name"] == "m/3.0/shadow"]
    filters = str(shadow["typed_extension_protocol_options"])
    assert "/predictions/m/3.0" in filters
    assert 'replace("x-vestal-shadow", "1")' in filters
