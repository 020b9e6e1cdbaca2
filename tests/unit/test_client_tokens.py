"""Tokens are sent to the server only."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from client_both import both
from client_wire import BAD_TOKEN, HTTPServer, Received, http

from vestal import Client, TokenError, TokenExpired, UsageError
from vestal.client.flow import ApiCall, HTTPRequest, HTTPResponse

OK = http(200, {})
SECRET = "s3cr3t-t0k3n"


def write_keys(path: Path, inference: str, management: str = "mgmt", *, minutes: int = 60) -> None:
    expiry = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(timespec="microseconds")
    java = expiry.replace("+00:00", "123Z")  # nanoseconds, as TorchServe writes them
    keys = {
        "inference": {"key": inference, "expiration time": java},
        "management": {"key": management, "expiration time": java},
        "API": {"key": "api"},
    }
    path.write_text(json.dumps(keys))


class TokenServer(HTTPServer):
    """A server that accepts one token, as TorchServe does."""

    def __init__(self, *good: str) -> None:
        super().__init__(self._check)
        self.good = good

    def _check(self, request: Received) -> bytes:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.good:
            return BAD_TOKEN
        return OK if request.path.startswith("/predictions") else http(200, {"models": []})


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VESTAL_TOKEN", raising=False)


@both
def test_a_token_comes_from_the_argument_before_the_environment(
    kind: type[Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VESTAL_TOKEN", "other")
    with TokenServer(SECRET) as server, kind(server.url, token=SECRET) as client:
        client.predict("m", b"x")


@both
def test_a_token_comes_from_the_environment(
    kind: type[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VESTAL_TOKEN", f" {SECRET}\n")
    with TokenServer(SECRET) as server, kind(server.url) as client:
        client.predict("m", b"x")


@both
def test_a_key_file_has_a_key_for_each_address(kind: type[Client], tmp_path: Path) -> None:
    keys = tmp_path / "key_file.json"
    write_keys(keys, "infer", "manage")
    with (
        TokenServer("infer") as inference,
        TokenServer("manage") as management,
        HTTPServer(lambda _: http(200, b"page")) as metrics,
        kind(
            inference.url, management=management.url, metrics=metrics.url, key_file=keys
        ) as client,
    ):
        client.predict("m", b"x")
        assert client.models() == []
        assert client.metrics_text() == "page"
    assert "authorization" not in metrics.received[0].headers


@both
def test_the_error_without_a_token_names_the_reason(kind: type[Client]) -> None:
    with TokenServer(SECRET) as server, kind(server.url) as client:
        with pytest.raises(
            TokenError, match="requires a token, and this client has none"
        ) as caught:
            client.predict("m", b"x")
        assert "authorization" not in server.received[0].headers
    assert caught.value.hint == "Pass token= or key_file=, or set VESTAL_TOKEN"


@both
def test_a_changed_key_file_is_read_again(kind: type[Client], tmp_path: Path) -> None:
    keys = tmp_path / "key_file.json"
    write_keys(keys, "old")
    with TokenServer("old") as server, kind(server.url, key_file=keys) as client:
        client.predict("m", b"x")
        write_keys(keys, "newer")
        server.good = ("newer",)
        client.predict("m", b"x")
        assert len(server.received) == 2


@both
def test_a_rejected_key_is_read_again_even_if_the_file_seems_unchanged(
    kind: type[Client], tmp_path: Path
) -> None:
    keys = tmp_path / "key_file.json"
    write_keys(keys, "old")
    with TokenServer("old") as server, kind(server.url, key_file=keys) as client:
        client.predict("m", b"x")
        stamp = keys.stat()
        write_keys(keys, "new")
        os.utime(keys, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        server.good = ("new",)
        assert client.predict("m", b"x").attempts == 2


@both
def test_a_rejected_key_that_did_not_change_is_not_sent_again(
    kind: type[Client], tmp_path: Path
) -> None:
    keys = tmp_path / "key_file.json"
    write_keys(keys, SECRET)
    with TokenServer("other") as server, kind(server.url, key_file=keys) as client:
        with pytest.raises(TokenError, match=f"the token from key file {keys}") as caught:
            client.predict("m", b"x")
        assert len(server.received) == 1
    assert type(caught.value) is TokenError
    assert caught.value.status == 400


@both
def test_an_expired_key_raises_token_expired(kind: type[Client], tmp_path: Path) -> None:
    keys = tmp_path / "key_file.json"
    write_keys(keys, SECRET, minutes=-1)
    with (
        TokenServer("other") as server,
        kind(server.url, key_file=keys) as client,
        pytest.raises(TokenExpired, match="it expired at 20"),
    ):
        client.predict("m", b"x")


@both
def test_the_old_key_is_used_while_the_key_file_is_written(
    kind: type[Client], tmp_path: Path
) -> None:
    keys = tmp_path / "key_file.json"
    write_keys(keys, "good")
    with TokenServer("good") as server, kind(server.url, key_file=keys) as client:
        client.predict("m", b"x")
        keys.write_text('{"inference": {"ke')
        client.predict("m", b"x")
        keys.unlink()
        client.predict("m", b"x")


@both
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no key file at"),
        (f'{{"inference": "{SECRET}', "is not a JSON object"),
        (f'["{SECRET}"]', "is not a JSON object"),
        ("{}", "no inference key"),
        (f'{{"inference": "{SECRET}"}}', "no inference key"),
        (f'{{"inference": {{"key": "{SECRET} \\n x"}}}}', "characters that a header cannot have"),
    ],
)
def test_an_invalid_key_file_is_named(
    kind: type[Client], tmp_path: Path, text: str | None, message: str
) -> None:
    keys = tmp_path / "key_file.json"
    if text is not None:
        keys.write_text(text)
    with (
        kind("http://127.0.0.1:1", key_file=keys) as client,
        pytest.raises(TokenError, match=message) as caught,
    ):
        client.predict("m", b"x")
    assert str(keys) in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_token_never_appears_in_logs_or_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with TokenServer("other") as server, Client(server.url, token=SECRET) as client:
        with pytest.raises(TokenError) as caught:
            client.predict("m", b"x")
        seen = [repr(client), str(caught.value), repr(caught.value), repr(vars(caught.value))]
    with pytest.raises(TokenError) as unusable:
        Client("http://127.0.0.1:1", token=f"{SECRET}\r\nx: y")
    seen += [str(unusable.value), caplog.text]
    assert not any(SECRET in text for text in seen)
    assert "the argument token" in str(caught.value)


def test_reprs_show_neither_bodies_nor_tokens() -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    call = ApiCall("inference", "POST", "/predictions/m", body=SECRET.encode(), headers=headers)
    request = HTTPRequest("POST", "http://h:1", "/predictions/m", headers, SECRET.encode())
    response = HTTPResponse(200, "OK", {"x-token": SECRET}, SECRET.encode())
    assert repr(call) == "<POST /predictions/m, 12 bytes>"
    assert repr(request) == "<POST http://h:1/predictions/m, 12 bytes>"
    assert repr(response) == "<200 OK, 12 bytes>"


def test_token_and_key_file_cannot_be_combined(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass only one"):
        Client("http://127.0.0.1:1", token=SECRET, key_file=tmp_path)
