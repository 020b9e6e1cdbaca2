"""Compare the responses of a handler in this process and of a server to the same request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import requests

from vestal.inprocess import LoadedArchive
from vestal.inprocess.frontend import Frontend, Sent
from vestal.inprocess.messages import Answer


def ask_here(
    frontend: Frontend,
    loaded: LoadedArchive,
    headers: Mapping[str, str],
    body: bytes,
    *,
    explain: bool = False,
) -> Answer:
    others = dict(headers)
    sent = Sent("body", body, others.pop("Content-Type", ""), others)
    (batch,) = frontend.ask(loaded, [sent], explain=explain)
    return batch.answers[0]


def ask_server(
    address: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    reply = requests.post(address, data=body, headers=headers, timeout=60)
    return reply.status_code, dict(reply.headers), reply.content


def plain(body: bytes) -> Any:
    """Return JSON without random ids; other bytes are not changed."""
    try:
        value = json.loads(body)
    except ValueError:
        return body
    for each in [value, *value.get("predictions", [])]:
        each.pop("request_id", None)
    return value


def assert_same(name: object, ours: Answer, theirs: tuple[int, Mapping[str, str], bytes]) -> None:
    """Compare status, body and the handler's headers; status and type if no handler ran."""
    status, headers, body = theirs
    assert ours.status == status, name
    lower = {key.lower(): value for key, value in headers.items()}
    assert ours.headers.items() <= lower.items(), name
    if ours.reached:
        assert plain(ours.body) == plain(body), name
        # The other headers are the frontend's.
        own = {key for key in lower if key.startswith("x-") and key != "x-request-id"}
        assert own | {"content-type"} & lower.keys() <= ours.headers.keys(), name
    else:
        assert "x-model-name" not in lower, f"{name}: the server's handler ran"
        assert bool(ours.body) == bool(body), name
        if body:
            assert plain(ours.body)["type"] == plain(body)["type"], name
