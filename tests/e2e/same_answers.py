"""Send a request to a handler in this process and to a server, and compare the responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import requests

from vestal.inprocess import LoadedArchive
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.messages import Response


def send_to_handler(
    frontend: Frontend,
    loaded: LoadedArchive,
    headers: Mapping[str, str],
    body: bytes,
    *,
    explain: bool = False,
) -> Response:
    others = dict(headers)
    request = RawRequest("body", body, others.pop("Content-Type", ""), others)
    (batch,) = frontend.predict(loaded, [request], explain=explain)
    return batch.responses[0]


def send_to_server(
    address: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    reply = requests.post(address, data=body, headers=headers, timeout=60)
    return reply.status_code, dict(reply.headers), reply.content


def plain(body: bytes) -> Any:
    """Return the JSON value without request IDs, or the bytes if they are not JSON."""
    try:
        value = json.loads(body)
    except ValueError:
        return body
    for one in [value, *value.get("predictions", [])]:
        one.pop("request_id", None)
    return value


def assert_same(name: object, ours: Response, theirs: tuple[int, Mapping[str, str], bytes]) -> None:
    """Compare status, body and the handler's headers; of refused requests, status and type."""
    status, headers, body = theirs
    assert ours.status == status, name
    lower = {key.lower(): value for key, value in headers.items()}
    assert ours.headers.items() <= lower.items(), name
    if ours.reached:
        assert plain(ours.body) == plain(body), name
        # All other headers are the frontend's.
        own = {key for key in lower if key.startswith("x-") and key != "x-request-id"}
        assert own | {"content-type"} & lower.keys() <= ours.headers.keys(), name
    else:
        assert "x-model-name" not in lower, f"{name}: the server's handler was reached"
        assert bool(ours.body) == bool(body), name
        if body:
            assert plain(ours.body)["type"] == plain(body)["type"], name
