"""Canaries, shadows and the files of the gateway in serving.yaml."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from resolving_store import archive
from resolving_store import refuse as refuse
from resolving_store import resolved as resolved
from resolving_store import store as store

from vestal.fleet.desired import Canary, Desired, Shadow, Workers
from vestal.gateway.settings import Gateway, Sticky, Tls


def test_a_canary_and_a_shadow_are_versions_of_the_model(
    resolved: Callable[[str], Desired], store: Path
) -> None:
    archive(store, "mnist-3.0.mar", "mnist", "3.0")
    mnist = resolved(
        """models:
  mnist:
    version: "1.0"
    canary: {version: "2.0", weight: 10, sticky: {header: x-user}, memory_limit: 1GB}
    shadow: {version: "3.0", workers: 2}
gateway: {}
"""
    ).models["mnist"]
    assert (mnist.default, list(mnist.versions)) == ("1.0", ["1.0", "2.0", "3.0"])
    assert mnist.canary == Canary(version="2.0", weight=10, sticky=Sticky(header="x-user"))
    assert mnist.shadow == Shadow(version="3.0", sample=100)
    assert mnist.versions["2.0"].memory_limit == 10**9
    assert mnist.versions["2.0"].workers == Workers(min=2, max=3)
    assert mnist.versions["3.0"].workers == Workers(min=2, max=2)


def test_a_canary_that_cannot_get_requests_is_refused(refuse: Callable[[str], list[str]]) -> None:
    text = """models:
  mnist:
    version: "1.0"
    canary: {version: "2.0", weight: 10}
    shadow: {version: "4.0"}
"""
    assert refuse(text) == [
        "serving.yaml:4: models.mnist.canary: a canary needs the gateway: add `gateway: {port: "
        "8000}` to the file",
        "serving.yaml:5: models.mnist.shadow.version: model_store has no mnist 4.0; it has "
        "version 1.0, 2.0; did you mean 2.0?",
        "serving.yaml:5: models.mnist.shadow: a shadow needs the gateway: add `gateway: {port: "
        "8000}` to the file",
    ]
    text = """models:
  mnist:
    version: "1.0"
    canary: {version: "1.0", weight: 10}
gateway: {}
"""
    assert refuse(text) == ["serving.yaml:4: models.mnist.canary: version 1.0 is named twice"]


@pytest.mark.parametrize("role", ["live", "shadow"])
def test_a_shadow_whose_responses_cannot_be_compared_is_refused(
    refuse: Callable[[str], list[str]], store: Path, role: str
) -> None:
    archive(store, "echo-1.0.mar", "echo", "1.0", foreign=role == "live")
    archive(store, "echo-2.0.mar", "echo", "2.0", foreign=role == "shadow")
    text = """models:
  echo:
    version: "1.0"
    shadow: {version: "2.0"}
gateway: {}
"""
    name = {"live": "echo-1.0.mar", "shadow": "echo-2.0.mar"}[role]
    assert refuse(text) == [
        f"serving.yaml:4: models.echo.shadow: {name} has no handlers of this version of Vestal, so "
        "its responses cannot be compared; pack the model with `vestal pack`, for the live and the "
        "shadow version"
    ]


def test_the_files_of_the_gateway_are_found(
    resolved: Callable[[str], Desired], tmp_path: Path
) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("-")
    keys = tmp_path / "keys.yaml"
    keys.write_text("shop: {key: 0123456789abcdef}")
    keys.chmod(0o600)
    text = """models: {}
gateway:
  tls: {certificate: cert.pem, key: key.pem}
  api_keys: keys.yaml
  rate_limit: 5
"""
    assert resolved(text).gateway == Gateway(
        tls=Tls(certificate=f"{tmp_path}/cert.pem", key=f"{tmp_path}/key.pem"),
        api_keys=str(keys),
        rate_limit=5,
    )


def test_files_of_the_gateway_that_cannot_be_used_are_listed(
    refuse: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "cert.pem").write_text("-")
    keys = tmp_path / "keys.yaml"
    text = """models: {}
gateway:
  tls: {certificate: cert.pem, key: key.pem}
  api_keys: keys.yaml
"""
    assert refuse(text) == [
        "serving.yaml:3: gateway.tls.key: key.pem: No such file or directory",
        "serving.yaml:4: gateway.api_keys: keys.yaml: No such file or directory",
    ]
    keys.write_text("shop: {key: 0123456789abcdef}")
    keys.chmod(0o644)
    assert refuse(text)[1] == (
        "serving.yaml:4: gateway.api_keys: keys.yaml is readable for every user: run `chmod 600 "
        "keys.yaml`"
    )
    keys.chmod(0o600)
    keys.write_text("shop:\n  key: short\nbatch: {key: 0123456789abcdef, model: [mnist]}\n")
    assert refuse(text)[1] == (
        "serving.yaml:4: gateway.api_keys: keys.yaml:2: shop.key: expected 16 to 500 characters "
        "without spaces (python -c 'import secrets; print(secrets.token_urlsafe(32))'); "
        "keys.yaml:3: batch.model: unknown key; expected one of key, models"
    )


def test_without_envoy_the_gateway_names_the_package(
    refuse: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)  # an import fails as if it were not installed
    assert refuse("models: {}\ngateway: {}\n") == [
        "serving.yaml:2: gateway: the gateway needs Envoy, which is not installed: pip install "
        "'vestal[gateway]'"
    ]
