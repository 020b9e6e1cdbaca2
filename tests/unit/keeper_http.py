"""A keeper without TorchServe, behind its HTTP API."""

from __future__ import annotations

import os

import pytest
import requests
from keeper_fake import FakeKeeper, desired, keeper_api

from vestal.fleet.keeper_token import read_token
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


def assert_error(response, code, kind, message):
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (response.status_code, body["code"], body["type"]) == (code, code, kind), body
    assert message in body["message"], body
    assert set(body) == {"code", "type", "message"}
