"""Envoy's configuration: Envoy itself accepts it, and secrets are only where they belong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vestal.gateway.bootstrap import bootstrap, resources, static_bootstrap
from vestal.gateway.clients import ApiClient
from vestal.gateway.envoy import find_envoy
from vestal.gateway.routes import routes
from vestal.gateway.settings import Gateway, Sticky, Tls
from vestal.gateway.setup import ModelRoutes, Secrets, Setup, Share


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(
        settings=Gateway(),
        port=8000,
        torchserve=("127.0.0.1", 8080),
        keeper=("127.0.0.1", 8083),
        max_body=1_000_000,
        folder=tmp_path,
        admin=tmp_path / "admin.sock",
        access_log=tmp_path / "access.log",
        models=(ModelRoutes("mnist", "2.0", ("1.0", "2.0", "2.1")),),
        secrets=Secrets(token="the-token"),
    )


@pytest.fixture
def complaint(tmp_path: Path) -> Callable[[Setup], str | None]:
    """Return what Envoy says about a configuration; None if it is valid."""
    program = find_envoy()
    assert program is not None

    def check(setup: Setup) -> str | None:
        file = tmp_path / "candidate.json"
        file.write_text(json.dumps(static_bootstrap(setup)))
        done = subprocess.run(
            [str(program), "--mode", "validate", "-c", str(file), "-l", "error"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr if done.returncode else None

    return check


def with_everything(setup: Setup) -> Setup:
    issued = trustme.CA().issue_cert("localhost")
    clients = (ApiClient("a", "k" * 16), ApiClient("b", "l" * 16, frozenset({"mnist"})))
    model = ModelRoutes(
        "mnist",
        "2.0",
        ("2.0", "2.1", "2.2"),
        canary=Share("2.1", 0.5, Sticky(cookie="user")),
        shadow=Share("2.2", 33.3333),
    )
    return replace(
        setup,
        settings=Gateway(address="::1", rate_limit=10, tls=Tls(certificate="c", key="k")),
        models=(model, ModelRoutes("gpt2", "1", ("1",), canary=None)),
        secrets=Secrets(
            "the-token",
            clients,
            "".join(each.bytes().decode() for each in issued.cert_chain_pems),
            issued.private_key_pem.bytes().decode(),
        ),
    )


def test_envoy_accepts_the_smallest_and_the_largest_configuration(
    setup: Setup, complaint: Callable[[Setup], str | None]
) -> None:
    assert complaint(replace(setup, models=(), secrets=Secrets())) is None
    assert complaint(setup) is None
    assert complaint(with_everything(setup)) is None


def test_envoy_refuses_a_certificate_of_another_key(
    setup: Setup, complaint: Callable[[Setup], str | None]
) -> None:
    everything = with_everything(setup)
    other = trustme.CA().issue_cert("localhost").private_key_pem.bytes().decode()
    mixed = replace(everything, secrets=replace(everything.secrets, private_key=other))
    assert "Failed to load private key" in str(complaint(mixed))


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,30}", fullmatch=True), max_size=3),
    percent=st.floats(0, 100),
    header=st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,20}", fullmatch=True),
)
def test_envoy_accepts_every_valid_name_and_share(
    setup: Setup,
    complaint: Callable[[Setup], str | None],
    names: list[str],
    percent: float,
    header: str,
) -> None:
    models = tuple(
        ModelRoutes(
            name,
            "1",
            ("1", name),
            canary=Share(name, percent, Sticky(header=header)) if name != "1" else None,
            shadow=Share(name, percent) if name != "1" else None,
        )
        for name in dict.fromkeys(names)
    )
    assert complaint(replace(setup, models=models)) is None


def test_each_secret_is_in_one_file_only(setup: Setup) -> None:
    everything = with_everything(setup)
    texts = {name: json.dumps(content) for name, content in resources(everything).items()}
    texts["envoy.json"] = json.dumps(bootstrap(everything))

    def files_with(secret: str) -> set[str]:
        return {name for name, text in texts.items() if secret in text}

    assert files_with("the-token") == {"token.json"}
    assert files_with("PRIVATE KEY") == {"certificate.json"}
    assert files_with("k" * 16) == {"api_keys.json"}


def paths(setup: Setup) -> dict[str, Any]:
    found = routes(setup)["virtual_hosts"][0]["routes"]
    return {each["match"]["path"]: each["route"] for each in found if "path" in each["match"]}


def test_a_request_without_version_stays_without_one_unless_there_is_a_canary(
    setup: Setup,
) -> None:
    plain = paths(setup)["/predictions/mnist"]
    assert (plain["cluster"], plain["path_rewrite"]) == ("mnist/2.0", "/predictions/mnist")
    split = paths(with_everything(setup))["/predictions/mnist"]
    weights = {each["name"]: each["weight"] for each in split["weighted_clusters"]["clusters"]}
    assert weights == {"mnist/2.0": 9950, "mnist/2.1": 50}
    assert split["path_rewrite"] == "/predictions/%UPSTREAM_CLUSTER_RAW%"


@pytest.mark.parametrize(
    ("percent", "weight"), [(0.001, 1), (0.01, 1), (1, 100), (99.99, 9999), (100, 10_000)]
)
def test_a_small_share_is_not_rounded_to_nothing(setup: Setup, percent: float, weight: int) -> None:
    model = ModelRoutes("m", "1", ("1", "2"), canary=Share("2", percent))
    [default, canary] = paths(replace(setup, models=(model,)))["/predictions/m"][
        "weighted_clusters"
    ]["clusters"]
    assert (default["weight"], canary["weight"]) == (10_000 - weight, weight)


def test_a_client_without_permission_for_any_model_is_not_taken_for_everybody(
    setup: Setup,
) -> None:
    clients = (ApiClient("a", "k" * 16, frozenset({"other"})),)
    content = json.dumps(routes(replace(setup, secrets=Secrets("t", clients))))
    assert '"allowed_clients": []' not in content
    assert '"allowed_clients": ["no client"]' in content
