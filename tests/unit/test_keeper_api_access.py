"""Who may call the keeper's HTTP API: tokens, hosts, addresses and sizes."""

from __future__ import annotations

import socket
import stat

import pytest
from keeper_fake import desired
from keeper_http import api as api
from keeper_http import assert_error
from keeper_http import keeper as keeper

from vestal.configuration.ports import free_ports
from vestal.errors import VestalError
from vestal.fleet.access import MAX_BODY
from vestal.fleet.api import create_app
from vestal.fleet.api_server import ApiServer
from vestal.fleet.keeper_token import read_token, remove_token, token_file, write_token
from vestal.project import Project


def test_probes_need_no_token(api, keeper):
    assert api("GET", "/live", {}).json() == {"accepted": True}
    assert api("GET", "/ready", {}).json() == {"ready": True, "reasons": []}
    metrics = api("GET", "/metrics", {})
    assert "vestal_keeper_converged 1" in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain")
    keeper.reasons = ["mnist 2.0 is starting"]
    ready = api("GET", "/ready", {})
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["mnist 2.0 is starting"])


@pytest.mark.parametrize("path", ["/v1/status", "/v1/openapi.json", "/v1/events", "/nothing"])
def test_everything_else_is_refused_without_the_token(api, path):
    token = api.authorization["Authorization"].removeprefix("Bearer ")
    wrong = [
        "",
        "Bearer",
        "Bearer x",
        f"Basic {token}",
        token,
        "Bearer \xff\xfe",
        f"Bearer {token}x",
    ]
    for headers in ({}, *({"Authorization": each.encode("latin-1")} for each in wrong)):
        refused = api("GET", path, headers)
        assert_error(refused, 401, "Unauthorized", ".vestal/keeper_token")
        assert refused.headers["www-authenticate"] == "Bearer"


def test_the_body_of_an_unauthorized_request_is_not_read(api):
    """The response comes although the body has not been sent."""
    host, port = "127.0.0.1", int(api.server.url.rpartition(":")[2])
    with socket.create_connection((host, port), timeout=10) as connection:
        head = f"POST /v1/apply HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 401 " in connection.recv(1000)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused(api, chunked):
    headers = {**api.authorization, "Content-Type": "application/json"}
    chunks = (b" " * 1_000_000 for _ in range(MAX_BODY // 1_000_000 + 2))
    body = chunks if chunked else b" " * (MAX_BODY + 1)
    refused = api("POST", "/v1/plan", headers, data=body)
    assert_error(refused, 413, "BodyTooLarge", "more than 32 MB")
    assert api("GET", "/v1/status").ok


def test_a_body_at_the_limit_is_read(api):
    headers = {**api.authorization, "Content-Type": "application/json"}
    body = desired(mnist=["2.0"]).model_dump_json().encode().ljust(MAX_BODY)
    assert api("POST", "/v1/plan", headers, data=body).ok


@pytest.mark.parametrize("path", ["/v1/status", "/metrics"])
def test_another_name_in_the_host_header_is_refused(api, path):
    """A web page could otherwise reach the API under a name of its own (DNS rebinding)."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.1.2.3", ""):
        refused = api("GET", path, {**api.authorization, "Host": host})
        assert_error(refused, 400, "InvalidHost", "expected the address of the keeper")


def test_names_of_this_machine_are_accepted(api):
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "[::1]"):
        assert api("GET", "/v1/status", {**api.authorization, "Host": host}).ok


def test_no_web_page_may_read_responses(api):
    page = {**api.authorization, "Origin": "http://evil.example"}
    assert not [n for n in api("GET", "/live", page).headers if n.lower().startswith("access-")]
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert api("OPTIONS", "/v1/apply", preflight).status_code == 401


def test_a_port_in_use_is_one_sentence(keeper):
    (port,) = free_ports("127.0.0.1", 1)
    with socket.create_server(("127.0.0.1", port)):
        server = ApiServer(keeper, "token", "127.0.0.1", port)
        with pytest.raises(VestalError, match=rf"port {port} \(keeper_address\) is in use by pid"):
            server.start()


def test_an_address_of_another_machine_is_one_sentence(keeper):
    with pytest.raises(VestalError, match=r"cannot listen on 192\.0\.2\.1"):
        ApiServer(keeper, "token", "192.0.2.1", 0).start()


def test_a_server_on_all_addresses_accepts_every_literal_address(keeper):
    from fastapi.testclient import TestClient

    client = TestClient(create_app(keeper, "t", host="0.0.0.0"))
    assert client.get("/live", headers={"Host": "10.1.2.3:8083"}).status_code == 200
    assert client.get("/live", headers={"Host": "evil.example"}).status_code == 400


def test_only_the_owner_can_read_the_token(tmp_path):
    project = Project(tmp_path)
    project.state.mkdir()
    assert read_token(project) is None
    first = write_token(project)
    assert stat.S_IMODE(token_file(project).stat().st_mode) == 0o600
    assert read_token(project) == first
    assert write_token(project) != first
    assert [path.name for path in project.state.iterdir()] == ["keeper_token"]
    remove_token(project)
    remove_token(project)
    assert not list(project.state.iterdir())
