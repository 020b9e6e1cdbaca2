"""Which version gets a request at the gateway, and what is recorded about it."""

from __future__ import annotations

import json
import time

import requests
from gateway_served import KEY, Gated
from serving import until

from vestal.fleet.desired import Shadow
from vestal.gateway.settings import Sticky


def test_all_requests_of_a_user_reach_one_version(served: Gated) -> None:
    def assigned() -> dict[str, str]:
        users = [f"user{n}" for n in range(60)]
        return {user: served.post(headers={"X-User": user}).json()["version"] for user in users}

    try:
        served.canary(20, Sticky(header="x-user"))
        first = assigned()
        assert first == assigned()
        served.canary(60, Sticky(header="x-user"))
        later = assigned()
    finally:
        served.canary(0)
    few, many = ({u for u, v in each.items() if v == "1.1"} for each in (first, later))
    assert 0 < len(few) < len(many) < 60
    assert few < many  # nobody goes back when the share grows


def test_all_requests_with_the_same_cookie_reach_one_version(served: Gated) -> None:
    try:
        served.canary(50, Sticky(cookie="session"))
        versions = {}
        for number in range(30):
            cookie = f"a=b; session=s{number}; c=d"
            answers = {served.post(headers={"Cookie": cookie}).json()["version"] for _ in range(3)}
            [versions[number]] = answers
    finally:
        served.canary(0)
    assert set(versions.values()) == {"1.0", "1.1"}


def test_a_shadow_gets_copies_and_changes_no_response(served: Gated) -> None:
    try:
        served.change({"shadow": Shadow(version="1.2", sample=100)})
        response = served.post(body=b"copied", headers={"X-Request-Id": "id-of-the-caller"})
        assert response.json()["version"] == "1.0"

        def copies() -> list[dict[str, object]]:
            return [
                each
                for each in served.requests_received()
                if each["version"] == "1.2"
                and each["headers"].get("x-request-id") == "id-of-the-caller"
            ]

        [copy] = until(copies, 10, "the copy")
        assert (copy["length"], copy["headers"]["x-vestal-shadow"]) == (6, "1")
    finally:
        served.change({"shadow": Shadow(version="1.2", sample=0)})


def test_metrics_of_every_version_are_on_the_keepers_page(served: Gated) -> None:
    for version in ("1.0", "1.1"):
        served.post(f"/predictions/echo/{version}")

    def page() -> str:
        return requests.get(f"{served.server.ready.keeper}/metrics", timeout=10).text

    assert "vestal_ready 1.0" in page()
    for version in ("1.0", "1.1"):
        name = f'envoy_response_code_class="2",envoy_cluster_name="echo/{version}"'
        assert f"envoy_cluster_upstream_rq{{{name}}}" in page()
        times = f'envoy_cluster_upstream_rq_time_bucket{{envoy_cluster_name="echo/{version}"'
        until(lambda: times in page(), 10, "the histogram")  # noqa: B023


def test_each_request_is_a_line_of_the_access_log(served: Gated) -> None:
    identity = f"request-{time.time_ns()}"
    served.post("/predictions/echo/1.1", b"12345", {"X-Request-Id": identity})
    log = served.server._project.logs / "gateway_access.log"

    def entries() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["request_id"] == identity]

    [entry] = until(entries, 15, "the entry")
    assert (entry["client"], entry["version"], entry["status"]) == ("shop", "echo/1.1", 200)
    assert entry["bytes_received"] == 5
    assert KEY not in json.dumps(entry)
