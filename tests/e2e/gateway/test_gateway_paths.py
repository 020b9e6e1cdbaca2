"""What can be reached through the gateway: paths, headers and keys."""

from __future__ import annotations

import json

import pytest
import requests
from gateway_served import KEY, OTHER_KEY, Gated
from serving import until

from vestal import Client, TokenError


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/predictions/echo", "1.0"),
        ("/predictions/echo/1.1", "1.1"),
        ("/explanations/echo", "1.0"),
        ("/explanations/echo/1.2", "1.2"),
        ("/v2/models/echo/infer", "1.0"),
        ("/v2/models/echo/versions/1.1/infer", "1.1"),
    ],
)
def test_each_path_reaches_its_version(served: Gated, path: str, version: str) -> None:
    response = served.post(path, b"12345", {"Content-Type": "a/b"})
    assert response.status_code == 200
    assert (response.json()["version"], response.json()["length"]) == (version, 5)


@pytest.mark.parametrize(
    "path",
    [
        "/models",
        "/models/echo",
        "/predictions/echo/../../models",
        "/predictions/echo/9.9",
        "/predictions/none",
        "/predictions/echo/1.0/more",
        "/ping",
        "/metrics",
        "/api-description",
        "/token",
        "/echo/predict",
        "/v2/models/echo",
        "/stats",
    ],
)
def test_nothing_but_predictions_can_be_reached(served: Gated, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    answer = served.raw(f"{request}Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"type":"ModelNotFoundException"' in answer


@pytest.mark.parametrize("path", ["/predictions/echo%2f1.1", "/predictions%5cecho", "/..%2fmodels"])
def test_a_path_with_an_escaped_slash_is_refused(served: Gated, path: str) -> None:
    answer = served.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_options_do_not_describe_the_api(served: Gated) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    url = f"{served.url}/predictions/echo"
    assert requests.options(url, headers=headers, timeout=10).status_code == 404


def test_headers_of_the_server_cannot_be_set_from_outside(served: Gated) -> None:
    headers = {"Describe": "True", "X-Vestal-Shadow": "1", "X-Vestal-Client": "evil", "X-User": "u"}
    response = served.post(headers=headers)
    seen = response.json()["headers"]
    assert "describe" not in seen
    assert "x-vestal-shadow" not in seen
    assert (seen["x-vestal-client"], seen["x-user"]) == ("shop", "u")
    assert KEY not in json.dumps(seen)


def test_readiness_needs_no_key_and_names_no_model(served: Gated) -> None:
    response = requests.get(f"{served.url}/ready", timeout=10)
    assert (response.status_code, response.content) == (200, b"")


def test_a_key_is_needed_and_permits_its_models_only(served: Gated) -> None:
    assert served.post(key=None).status_code == 401
    wrong = served.post(key="0123456789abcdef")
    assert (wrong.status_code, wrong.json()["type"]) == (401, "InvalidKeyException")
    assert served.post(key=OTHER_KEY).status_code == 403
    assert served.post(key=None, headers={"X-API-Key": KEY}).status_code == 200
    with Client(served.url, token="0123456789abcdef") as client, pytest.raises(TokenError):
        client.predict("echo", b"x")


def test_a_changed_key_is_in_effect_without_a_new_connection(served: Gated) -> None:
    before = served.keys.read_text()
    new = "a-new-key-of-the-shop-0123"
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        url = f"{served.url}/predictions/echo"
        assert session.post(url, b"x", timeout=10).status_code == 200
        try:
            served.keys.write_text(before.replace(KEY, new))
            until(lambda: session.post(url, b"x", timeout=10).status_code == 401, 10, "401")
            assert served.post(key=new).status_code == 200
            served.keys.write_text("shop: {key: short}\n")  # a mistake changes nothing
            until(lambda: "shop.key" in str(_problem(served)), 10, "the problem")
            assert served.post(key=new).status_code == 200
        finally:
            served.keys.write_text(before)
        until(lambda: session.post(url, b"x", timeout=10).status_code == 200, 10, "200")
        until(lambda: _problem(served) is None, 10, "no problem")


def _problem(served: Gated) -> str | None:
    assert served.keeper.gatekeeper.status is not None
    return served.keeper.gatekeeper.status.problem
