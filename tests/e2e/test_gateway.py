"""The gateway in front of a real server: routes, shares, keys, limits, hostile requests."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme
from gateway_served import KEY, MAX_BODY, OTHER_KEY, Gated, gated
from serving import until

from vestal import Client, TokenError
from vestal.fleet.desired import Shadow
from vestal.gateway.settings import Sticky, Tls


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with gated(tmp_path_factory.mktemp("gateway")) as running:
        yield running


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


def test_no_call_fails_while_torchserves_token_is_renewed(served: Gated) -> None:
    ready = served.server.ready
    assert ready.key_file is not None
    keys = json.loads(Path(ready.key_file).read_text())
    ended, versions = threading.Event(), []

    def call() -> None:
        with Client(served.url, token=KEY) as client:
            while not ended.is_set():
                versions.append(client.predict("echo", b"x")["version"])

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for _ in range(5):
            response = requests.get(
                f"{ready.management}/token",
                params={"type": "inference"},
                headers={"Authorization": f"Bearer {keys['API']['key']}"},
                timeout=10,
            )
            assert response.status_code == 200
            count = len(versions)
            until(lambda: len(versions) > count + 5 or not thread.is_alive(), 20, "more")  # noqa: B023
    finally:
        ended.set()
        thread.join()
    assert set(versions) == {"1.0"}
    assert json.loads(Path(ready.key_file).read_text())["inference"] != keys["inference"]


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


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Bad Header: x\r\n",
        "X: a\r\n\x00b: c\r\n",
    ],
)
def test_a_request_of_ambiguous_length_is_refused(served: Gated, headers: str) -> None:
    hidden = f"GET /hidden HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    request = f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    answer = served.raw(f"{request}{headers}\r\n0\r\n\r\n{hidden}".encode("latin-1"))
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 413 "))
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("extension", [b"5;a\n\r\n", b"5\n", b"5;\x00\r\n", b"5 \r\n"])
def test_a_malformed_chunk_is_refused_or_reframed(served: Gated, extension: bytes) -> None:
    """TorchServe accepts them; it must not see them."""
    before = len(served.requests_received())
    request = f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    headers = "Content-Type: a/b\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = served.raw(
        f"{request}{headers}".encode() + extension + b"hello\r\n0\r\n\r\n", seconds=4
    )
    seen = [each["headers"] for each in served.requests_received()[before:]]
    assert all("transfer-encoding" not in each and each["content-length"] == "5" for each in seen)
    assert len(seen) == answer.count(b"HTTP/1.1 200 ")


def test_a_chunked_request_reaches_torchserve_with_its_length(served: Gated) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"12345"
        yield b"678"

    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "a/b"}
    response = requests.post(
        f"{served.url}/predictions/echo", pieces(), headers=headers, timeout=10
    ).json()
    assert (response["length"], response["headers"]["content-length"]) == (8, "8")
    assert "transfer-encoding" not in response["headers"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(served: Gated) -> None:
    head = "POST /predictions/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 19000000\r\n"
    answer = served.raw(f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert f"the body has more than {MAX_BODY:,} bytes".encode() in answer
    assert served.raw(f"{head}\r\n".encode()).startswith(b"HTTP/1.1 401 ")
    at_limit = served.post(body=bytes(MAX_BODY), headers={"Content-Type": "a/b"})
    assert (at_limit.status_code, at_limit.json()["length"]) == (200, MAX_BODY)


def test_a_chunked_body_over_the_limit_is_refused(served: Gated) -> None:
    head = "POST /predictions/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    chunk = b"%x\r\n%s\r\n" % (MAX_BODY, bytes(MAX_BODY))
    answer = served.raw(
        f"{head}Authorization: Bearer {KEY}\r\n\r\n".encode() + chunk + b"5\r\nhello"
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "headers",
    ["".join(f"a{n}: 1\r\n" for n in range(101)), "a: 1\r\n" * 10_000, f"a: {'1' * 40_000}\r\n"],
    ids=["101 headers", "10,000 headers", "40 KB"],
)
def test_too_many_headers_are_refused(served: Gated, headers: str) -> None:
    head = f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    answer = served.raw(f"{head}{headers}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""  # closed while they were sent


@pytest.mark.parametrize("kind", ["urlencoded", "multipart"])
def test_a_form_has_at_most_10_000_fields(served: Gated, kind: str) -> None:
    def send(fields: int) -> requests.Response:
        names = [f"a{number}" for number in range(fields)]
        parts = dict.fromkeys(names, (None, "1")) if kind == "multipart" else None
        return requests.post(
            f"{served.url}/predictions/echo",
            dict.fromkeys(names, "1") if kind == "urlencoded" else None,
            files=parts,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=20,
        )

    assert send(10_000).status_code == 200
    refused = send(10_001)
    assert refused.status_code == 413
    assert "the form has more than 10000 fields" in refused.json()["message"]


def test_a_caller_above_the_rate_limit_is_told_to_wait(served: Gated) -> None:
    try:
        served.change(rate_limit=5)
        responses = [served.post() for _ in range(15)]
        limited = [each for each in responses if each.status_code == 429]
        assert 0 < len(limited) < 15
        assert {each.status_code for each in responses} == {200, 429}
        assert {each.headers["retry-after"] for each in limited} == {"1"}
        assert limited[0].json()["type"] == "TooManyRequests"
        assert served.post(key=OTHER_KEY).status_code == 403  # another caller has its own rate
        with Client(served.url, token=KEY) as client:
            assert client.predict("echo", b"x")["version"] == "1.0"  # after a pause
    finally:
        served.change(rate_limit=None)


def test_half_sent_requests_are_closed(served: Gated) -> None:
    heads = [
        b"POST /predictions/echo HTTP/1.1\r\nHost: x\r\n",
        f"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nAuthorization: Bearer "
        f"{KEY}\r\n\r\nab".encode(),
    ]
    connections = [socket.create_connection(served.address, timeout=15) for _ in range(500)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(heads[number % 2])
        assert served.post().status_code == 200  # others are served meanwhile
        statuses = Counter(_read_to_end(connection)[:13] for connection in connections)
    finally:
        for connection in connections:
            connection.close()
    assert statuses == {b"HTTP/1.1 408 ": 500}


def _read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(4096):
        answer += piece
    return answer


def test_bodies_without_a_key_are_refused_before_they_are_read(served: Gated) -> None:
    before = served.torchserve.memory_info().rss
    head = b"POST /predictions/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 19000000\r\n\r\n"
    count = len(served.requests_received())
    connections = [socket.create_connection(served.address, timeout=15) for _ in range(24)]
    for connection in connections:
        connection.sendall(head + bytes(10_000))
    answers = {connection.recv(4096)[:13] for connection in connections}
    for connection in connections:
        connection.close()
    assert answers == {b"HTTP/1.1 401 "}
    assert len(served.requests_received()) == count
    assert served.torchserve.memory_info().rss < before + 24 * 1_000_000  # of 24 * 19 MB


def test_envoy_is_started_again_when_it_is_killed(served: Gated) -> None:
    status = served.keeper.gatekeeper.status
    assert status is not None
    with Client(served.url, token=KEY) as client:
        assert client.predict("echo", b"x")["version"] == "1.0"
        served.envoy.kill()
        assert client.predict("echo", b"x", timeout=20)["version"] == "1.0"
    after = served.keeper.gatekeeper.status
    assert after is not None
    assert after.restarts == status.restarts + 1


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


def test_tls_with_a_certificate_that_is_replaced(served: Gated) -> None:
    folder = served.keys.parent
    certificate, key = folder / "cert.pem", folder / "key.pem"
    first, second = trustme.CA(), trustme.CA()

    def issue(authority: trustme.CA) -> None:
        issued = authority.issue_cert("127.0.0.1")
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())

    def protocol(authority: trustme.CA) -> str | None:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(served.address, timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            return connection.selected_alpn_protocol()

    def is_second() -> bool:
        try:
            return protocol(second) == "h2"
        except ssl.SSLCertVerificationError:
            return False

    issue(first)
    try:
        served.change(tls=Tls(certificate=str(certificate), key=str(key)))
        assert served.url.startswith("https://")
        assert protocol(first) == "h2"
        with first.cert_pem.tempfile() as authority:
            headers = {"Authorization": f"Bearer {KEY}"}
            url = f"{served.url}/predictions/echo"
            response = requests.post(url, b"x", headers=headers, verify=authority, timeout=10)
            assert response.json()["version"] == "1.0"
        issue(second)
        until(is_second, 10, "the second certificate")
    finally:
        served.change(tls=None)
    assert served.post().status_code == 200


def test_http_2_is_spoken(served: Gated) -> None:
    settings_frame = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with socket.create_connection(served.address, timeout=10) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_frame)
        assert connection.recv(4096)[3] == 4  # the gateway's own SETTINGS


def test_without_envoy_the_server_names_the_package(served: Gated) -> None:
    code = (
        "import sys; sys.modules['envoy'] = None; from vestal.cli import main; "
        "sys.argv = ['vestal', 'apply', '--dry-run']; main()"
    )
    root = served.server._project.root
    (root / "serving.yaml").write_text("models: {}\ngateway: {}\n")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'vestal[gateway]'" in done.stderr
    assert "Traceback" not in done.stderr
