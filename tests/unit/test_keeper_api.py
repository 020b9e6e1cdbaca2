"""The keeper's HTTP API: responses, who may call it, and hostile requests."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import threading
import time

import pytest
import requests
from keeper_fake import SOURCE, FakeKeeper, desired, keeper_api
from serving import until

from vestal.configuration.ports import free_ports
from vestal.errors import VestalError
from vestal.fleet.access import MAX_BODY
from vestal.fleet.api import create_app
from vestal.fleet.api_server import ApiServer
from vestal.fleet.keeper_token import read_token, remove_token, token_file, write_token
from vestal.project import Project


@pytest.fixture
def keeper():
    return FakeKeeper(desired(mnist=["1.0"]))


@pytest.fixture
def api(tmp_path, keeper):
    """Call the API: `api("GET", "/v1/status")`; with the token, unless headers are given."""
    project = Project(tmp_path)
    with keeper_api(project, keeper, os.getpid()) as server:
        authorization = {"Authorization": f"Bearer {read_token(project)}"}

        def call(method, path, headers=None, **options):
            headers = authorization if headers is None else headers
            url = server.url + path
            return requests.request(method, url, headers=headers, timeout=10, **options)

        call.server = server
        call.authorization = authorization
        yield call


def change(state, **fields):
    body = {"desired": state.model_dump(mode="json"), "source": SOURCE.model_dump()}
    return {**body, **fields}


def assert_error(response, code, kind, message):
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (response.status_code, body["code"], body["type"]) == (code, code, kind), body
    assert message in body["message"], body
    assert set(body) == {"code", "type", "message"}


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


def test_status_desired_and_plan(api):
    status = api("GET", "/v1/status").json()
    assert (status["phase"], status["models"][0]["name"]) == ("running", "mnist")
    state = api("GET", "/v1/desired").json()
    assert (state["revision"], state["desired"]["models"]["mnist"]["default"]) == (1, "1.0")
    plan = api("POST", "/v1/plan", json=desired(mnist=["2.0"]).model_dump(mode="json")).json()
    assert [each["action"] for each in plan["steps"]] == ["switch"]
    assert api("GET", "/v1/revisions").json()[0]["number"] == 1


def test_apply_makes_a_revision_and_rollback_goes_back(api, keeper):
    made = api("POST", "/v1/apply", json=change(desired(mnist=["2.0"]))).json()
    assert (made["number"], made["source"]["user"]) == (2, "ops")
    assert keeper.desired().models["mnist"].default == "2.0"
    body = {"model": "mnist", "source": SOURCE.model_dump()}
    assert api("POST", "/v1/rollback", json=body).json()["number"] == 3
    assert keeper.desired().models["mnist"].default == "1.0"


def test_a_change_of_an_older_revision_is_refused(api, keeper):
    assert api("POST", "/v1/apply", json=change(desired(mnist=["2.0"]), base=1)).ok
    late = api("POST", "/v1/apply", json=change(desired(mnist=["3.0"]), base=1))
    assert_error(late, 409, "Conflict", "revision 2 was applied after revision 1 was read")
    assert keeper.desired().models["mnist"].default == "2.0"


def test_errors_of_the_keeper_have_the_shape_of_the_api(api, keeper):
    body = {"source": SOURCE.model_dump()}
    assert_error(api("POST", "/v1/rollback", json=body), 400, "UsageError", "no previous revision")
    keeper.failure = VestalError("the disk is full")
    assert_error(
        api("POST", "/v1/apply", json=change(desired())), 503, "VestalError", "the disk is full"
    )


def test_a_bug_in_the_keeper_is_a_500_without_details(api, keeper, monkeypatch, caplog):
    monkeypatch.setattr(keeper, "status", lambda: 1 / 0)
    with caplog.at_level(logging.ERROR):
        assert_error(api("GET", "/v1/status"), 500, "InternalError", "a bug in the keeper")
        until(lambda: "ZeroDivisionError" in caplog.text, 10, "the traceback in the log")


def test_stop_asks_the_keeper(api, keeper):
    assert api("POST", "/v1/stop").status_code == 202
    assert keeper.stopped.is_set()


INVALID = (
    (b"", "body"),
    (b"{", "JSON decode error"),
    (b"\xff\xfe", "JSON decode error"),
    (b"[" * 100_000, "parsing"),
    (b"[]", "body"),
    (b'{"models": {"mnist": {"default": "1"}}}', "body.models.mnist.versions: Field required"),
    (b'{"wrong": 1}', "body.wrong: Extra inputs are not permitted"),
    (b'{"models": {"m": {"default": "1", "versions": {"1": {}}}}}', "archive: Field required"),
)


def test_an_invalid_body_is_named(api):
    headers = {**api.authorization, "Content-Type": "application/json"}
    for body, message in INVALID:
        refused = api("POST", "/v1/plan", headers, data=body)
        assert refused.status_code in (400, 422)
        assert_error(refused, refused.status_code, "InvalidRequest", message)


def test_not_a_number_and_infinity_are_invalid(api):
    body = json.dumps(change(desired(mnist=["1.0"])))
    for value in ("NaN", "Infinity", "-1"):
        hostile = body.replace('"settle_seconds": 30.0', f'"settle_seconds": {value}')
        assert hostile != body
        headers = {**api.authorization, "Content-Type": "application/json"}
        refused = api("POST", "/v1/apply", headers, data=hostile)
        assert_error(refused, 422, "InvalidRequest", "settle_seconds")


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


def test_unknown_paths_and_methods(api):
    assert_error(api("GET", "/v1/nothing"), 404, "NotFound", "Not Found")
    assert_error(api("DELETE", "/v1/status"), 405, "MethodNotAllowed", "Not Allowed")


def test_openapi_documents_every_path_and_model(api):
    document = api("GET", "/v1/openapi.json").json()
    assert {"/v1/status", "/v1/apply", "/v1/events", "/ready"} <= set(document["paths"])
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            assert bool(operation.get("security")) == path.startswith("/v1/"), path
    undocumented = {
        name
        for name, schema in document["components"]["schemas"].items()
        if not schema.get("description") and name not in ("HTTPValidationError", "ValidationError")
    }
    assert not undocumented


def test_events_come_one_by_one_and_go_on_from_a_number(api, keeper):
    keeper.emit("note", "first")
    lines = api("GET", "/v1/events?after=0&timeout=0").text.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["first"]
    with api("GET", "/v1/events?after=1&timeout=30", stream=True) as stream:
        keeper.emit("note", "second")
        line = next(line for line in stream.iter_lines(chunk_size=1) if line)
        assert json.loads(line)["number"] == 2


def test_an_event_stream_ends_at_its_time_limit(api):
    started = time.monotonic()
    assert api("GET", "/v1/events?timeout=0.2").text == ""
    assert time.monotonic() - started >= 0.2


def test_a_silent_stream_shows_that_it_is_alive(api, monkeypatch):
    monkeypatch.setattr("vestal.fleet.event_stream._HEARTBEAT_SECONDS", 0.1)
    with api("GET", "/v1/events?timeout=30", stream=True) as stream:
        assert next(stream.iter_content(1)) == b"\n"


def test_invalid_queries_of_events(api):
    for query in ("after=-1", "after=x", "timeout=-1", "timeout=nan", "timeout=9999"):
        assert_error(api("GET", f"/v1/events?{query}"), 422, "InvalidRequest", "query.")


def test_many_open_streams_do_not_block_other_calls(api, monkeypatch):
    monkeypatch.setattr("vestal.fleet.event_stream.EventStream.limit", 3)
    streams = [api("GET", "/v1/events?timeout=60", stream=True) for _ in range(3)]
    try:
        deadline = time.monotonic() + 10
        while (refused := api("GET", "/v1/events?timeout=0")).ok:
            assert time.monotonic() < deadline
        assert_error(refused, 503, "Failed", "3 event streams are open")
        assert api("GET", "/v1/status").ok
    finally:
        for stream in streams:
            stream.close()


def test_a_stop_ends_open_streams(tmp_path, keeper):
    project = Project(tmp_path)
    with keeper_api(project, keeper, os.getpid()) as server:
        headers = {"Authorization": f"Bearer {read_token(project)}"}
        url = f"{server.url}/v1/events?timeout=600"
        stream = requests.get(url, headers=headers, stream=True, timeout=10)
        ended = threading.Event()
        thread = threading.Thread(target=lambda: (list(stream.iter_lines()), ended.set()))
        thread.start()
        server.stop()
        assert ended.wait(10)
        thread.join()
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/live", timeout=10)
        server.stop()  # does nothing


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
