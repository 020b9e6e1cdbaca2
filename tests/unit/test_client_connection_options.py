"""Headers, TLS and transports that a caller passes to a client."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from client_both import Blocking, both
from client_tls import https_server, make_certificate, server_context
from client_torchserve import FakeTorchServe, ready
from client_wire import WORKER_DIED, HTTPServer, http, script
from cryptography.hazmat.primitives import serialization
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.exceptions import InsecureRequestWarning

from vestal import (
    AsyncClient,
    Client,
    ConnectionFailed,
    NotFound,
    RequestRefused,
    UsageError,
    WorkerDied,
)

SECRET = {"X-Api-Key": "s3cr3t-key"}


@both
def test_headers_are_sent_with_every_request(kind: type[Client]) -> None:
    with FakeTorchServe(m=[ready()]) as server:
        headers = {**SECRET, "accept": "application/json"}
        with kind(server.url, management=server.url, token="t0ken", headers=headers) as client:
            client.models()
            with pytest.raises(NotFound):  # this server manages models only
                client.predict("nobody", {"a": 1})
    assert {r.path.split("/")[1] for r in server.received} == {"models", "predictions"}
    for request in server.received:
        assert request.headers["x-api-key"] == "s3cr3t-key"
        assert request.headers["accept"] == "application/json"
        assert request.headers["authorization"] == "Bearer t0ken"
    assert server.received[-1].headers["content-type"] == "application/json"


@both
def test_headers_are_sent_with_the_ping_after_a_broken_connection(kind: type[Client]) -> None:
    answers = script(WORKER_DIED, http(200, {}))
    with HTTPServer(answers) as server, kind(server.url, headers=SECRET) as client:
        client.predict("m", b"x")
    assert [r.headers.get("x-api-key") for r in server.received] == ["s3cr3t-key"] * 2


@both
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "a/b"}, "sets Content-Type itself; it depends on the input"),
        ({"HOST": "h"}, "sets HOST itself"),
        ({"Content-Length": "1"}, "sets Content-Length itself"),
        ({"X-Correlation-Id": "1"}, "pass correlation_id= to each call"),
        ({"Authorization": "Bearer x"}, "would replace the token from the argument token"),
        ({"X A": "1"}, "'X A' is not a valid header name"),
        ({"X-A": "s3cr3t\r\nX-B: 1"}, "the value of X-A is not a str of ASCII characters$"),
        ({"X-A": 3}, "the value of X-A is not a str of ASCII characters$"),
        ({"X-A": "1", "x-a": "2"}, "differ only in upper and lower case"),
        ([("X-A", "1")], "headers is of type list: expected a dict"),
    ],
)
def test_invalid_headers_are_refused(kind: type[Client], headers: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind_of(kind)("http://127.0.0.1:1", token="t", headers=headers)


def kind_of(kind: Any) -> Any:
    """The client itself: the constructor needs no event loop."""
    return AsyncClient if kind is Blocking else kind


@both
def test_authorization_may_be_set_by_a_client_without_a_token(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VESTAL_TOKEN", raising=False)
    headers = {"Authorization": "Basic dTpw"}
    with HTTPServer(script(http())) as server, kind(server.url, headers=headers) as client:
        client.predict("m", b"x")
    assert server.received[0].headers["authorization"] == "Basic dTpw"


@both
def test_header_values_are_never_shown(kind: type[Client]) -> None:
    quoted = http(400, {"code": 400, "type": "Bad", "message": "invalid key s3cr3t-key"})
    with HTTPServer(script(quoted)) as server, kind(server.url, headers=SECRET) as client:
        with pytest.raises(RequestRefused, match=r"invalid key \*\*\*") as caught:
            client.predict("m", b"x")
        assert "s3cr3t" not in f"{client!r} {caught.value!r} {caught.value.__dict__}"


@both
def test_verify_takes_a_ca_bundle(kind: type[Client], tmp_path: Path) -> None:
    cert, key, bundle = make_certificate(tmp_path)
    with https_server(server_context(cert, key)) as url:
        with kind(url, verify=bundle, timeout=5) as client:
            assert client.predict("m", b"x").value == {"client": None}
        with (
            kind(url, timeout=5) as client,
            pytest.raises(ConnectionFailed, match="certificate verify failed"),
        ):
            client.predict("m", b"x")


def test_verify_false_accepts_any_certificate_with_the_warning_of_urllib3(tmp_path: Path) -> None:
    cert, key, _ = make_certificate(tmp_path, "another-host")
    with https_server(server_context(cert, key)) as url:
        with (
            Client(url, verify=False, timeout=5) as client,
            pytest.warns(InsecureRequestWarning, match="certificate verification"),
        ):
            assert client.predict("m", b"x").value == {"client": None}
        with Blocking(url, verify=False, timeout=5) as client:
            assert client.predict("m", b"x").value == {"client": None}


@both
@pytest.mark.parametrize("joined", [False, True], ids=["two files", "one file"])
def test_a_client_certificate_is_sent(kind: type[Client], joined: bool, tmp_path: Path) -> None:
    cert, key, bundle = make_certificate(tmp_path / "server")
    own_cert, own_key, own_bundle = make_certificate(tmp_path / "client", "caller-7")
    both_in_one = tmp_path / "both.pem"
    both_in_one.write_bytes(own_cert.read_bytes() + own_key.read_bytes())
    own: Any = both_in_one if joined else (own_cert, own_key)
    with https_server(server_context(cert, key, client_ca=own_bundle)) as url:
        with kind(url, verify=bundle, cert=own, timeout=5) as client:
            assert client.predict("m", b"x").value == {"client": "caller-7"}
            restored = pickle.loads(pickle.dumps(getattr(client, "asynchronous", client)))
        assert repr(restored._options).startswith("<0 headers, verify=")
        assert restored._options.cert is not None


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify": "no.pem"}, r"no\.pem', not a usable CA bundle: No such file"),
        ({"verify": None}, "verify is None: expected True, False or the path"),
        ({"cert": "no.pem"}, r"no\.pem, not a usable certificate and key: No such file"),
        ({"cert": ("a", "b", "c")}, "expected the path of a PEM file, or a tuple"),
        ({"retries": -1}, "retries is -1: expected a whole number, 0 for none"),
        ({"retries": True}, "retries is True"),
        ({"retries": 1.0}, r"retries is 1\.0"),
        ({"transport": object()}, "transport is of type object: expected an? "),
    ],
)
def test_invalid_options_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind("http://127.0.0.1:1", **options)


def test_an_encrypted_key_is_refused_without_a_prompt(tmp_path: Path) -> None:
    cert, key, _ = make_certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), password=None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(UsageError, match="not a usable certificate and key"):
        Client("http://127.0.0.1:1", cert=(cert, locked))


class Canned(BaseAdapter):
    """A requests adapter that returns what a test gives it."""

    def __init__(self, *outcomes: int | Exception) -> None:
        super().__init__()
        self.outcomes = list(outcomes)
        self.sent: list[requests.PreparedRequest] = []
        self.closed = False

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]
        self.sent.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        response = requests.Response()
        response.status_code = outcome
        response._content = b'{"label": "7"}'
        response.headers["Content-Type"] = "application/json"
        return response

    def close(self) -> None:
        self.closed = True


def test_a_requests_adapter_sends_the_requests_of_a_client() -> None:
    refused = requests.ConnectionError()
    refused.__cause__ = ConnectionRefusedError(111, "refused")
    adapter = Canned(503, refused, 200)
    with Client("https://server.invalid", token="t0ken", transport=adapter) as client:
        client._retry_state.reached.connected.add("https://server.invalid")
        prediction = client.predict("m", b"png")
    assert (prediction.value, prediction.attempts) == ({"label": "7"}, 3)
    sent = adapter.sent[-1]
    assert sent.url == "https://server.invalid/predictions/m"
    assert (sent.body, sent.headers["Authorization"]) == (b"png", "Bearer t0ken")
    assert adapter.closed
    with pytest.raises(UsageError, match="closed"):
        client.predict("m", b"png")


def test_a_request_that_an_adapter_may_have_sent_is_retried_once() -> None:
    adapter = Canned(requests.ReadTimeout(), 200, requests.ReadTimeout())  # 200: of the ping
    with Client("https://server.invalid", transport=adapter) as client, pytest.raises(WorkerDied):
        client.predict("m", b"x")
    assert [request.path_url for request in adapter.sent] == [
        "/predictions/m",
        "/ping",
        "/predictions/m",
    ]


def test_the_adapter_of_requests_itself_calls_a_server() -> None:
    with (
        HTTPServer(script(http(200, {"label": "7"}))) as server,
        Client(server.url, transport=HTTPAdapter()) as client,
    ):
        assert client.predict("m", b"x").value == {"label": "7"}
    assert server.received[0].headers["content-length"] == "1"


def test_an_httpx_transport_sends_the_requests_of_an_asynchronous_client() -> None:
    received: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        received.append(request)
        if len(received) == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"label": request.content.decode()})

    transport = httpx.MockTransport(respond)
    with Blocking("https://server.invalid", token="t0ken", transport=transport) as client:
        results = client.predict_many("m", [b"1", b"2", b"3"])
    assert [result.value for result in results] == [{"label": label} for label in "123"]
    assert str(received[-1].url) == "https://server.invalid/predictions/m"
    assert received[-1].headers["authorization"] == "Bearer t0ken"
