"""The keeper's HTTP API: responses and invalid requests."""

from __future__ import annotations

import json
import logging

from keeper_fake import SOURCE, desired
from keeper_http import api as api
from keeper_http import assert_error
from keeper_http import keeper as keeper
from serving import until

from vestal.errors import VestalError


def change(state, **fields):
    body = {"desired": state.model_dump(mode="json"), "source": SOURCE.model_dump()}
    return {**body, **fields}


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
