"""Keys that cannot be renewed: no address, no API key, no lock, or a copy of the file."""

from __future__ import annotations

import errno
import fcntl
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from client_keys import KeyServer
from client_wire import BAD_TOKEN, HTTPServer, WireServer, error, http

from vestal import Client, TokenError, TokenExpired
from vestal.client import renewal
from vestal.client.tokens import KeyFile


def test_without_a_management_address_a_key_is_not_renewed(tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=-1) as server,
        Client(server.url, key_file=server.key_file) as client,
    ):
        with pytest.raises(TokenExpired, match=r"expired at 20.*management=") as caught:
            client.predict("m", b"")
        assert server.renewals == []
    assert caught.value.status == 400


@pytest.mark.parametrize("api", [{}, {"key": 3}, "text"])
def test_without_an_api_key_a_key_is_not_renewed(tmp_path: Path, api: object) -> None:
    with KeyServer(tmp_path, seconds=-1) as server, Client(**server.addresses()) as client:
        server.write(API=api)
        with pytest.raises(TokenExpired, match="the file has no API key"):
            client.predict("m", b"")


def test_a_copy_of_the_key_file_is_renewed_at_most_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestal.client.tokens.NEW", 0)
    with KeyServer(tmp_path, seconds=-1) as server, Client(**server.addresses()) as client:
        server.writes = False  # the server's own file is elsewhere
        for _ in range(2):
            with pytest.raises(TokenExpired, match="or a copy"):
                client.predict("m", b"")
        assert server.renewals == ["inference"]
        server.writes = True
        server.renew("inference")  # a new file, so the client may renew again
        server.ends["inference"] = time.time() + 5
        server.write()
        client.predict("m", b"")
        assert server.renewals == ["inference", "inference"]


def test_the_replaced_key_of_a_copy_has_expired(tmp_path: Path) -> None:
    with KeyServer(tmp_path) as server, Client(**server.addresses()) as client:
        client.predict("m", b"")
        server.writes = False
        server.renew("inference")  # a new key in the server's own file
        with pytest.raises(TokenExpired, match=r"it was valid before.*or a copy"):
            client.predict("m", b"")


def test_a_failed_renewal_is_retried_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(renewal, "time", clock)
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        server.renewal_response = error(500, "InternalServerException", "no")
        client.predict("m", b"")
        client.predict("m", b"")
        assert server.renewals == ["inference"]
        server.renewal_response = None
        now += renewal.RETRY_SECONDS
        client.predict("m", b"")
        assert server.renewals == ["inference", "inference"]


def test_a_refused_renewal_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "RETRY_SECONDS", 0)
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        server.renewal_response = error(405, "MethodNotAllowedException", "no token API")
        client.predict("m", b"")
        client.predict("m", b"")
        assert server.renewals == ["inference"]


def test_a_management_api_that_never_responds_delays_only_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "RENEWAL_TIMEOUT", 0.5)
    monkeypatch.setattr(renewal, "RETRY_SECONDS", 60)
    with (
        WireServer(lambda connection: connection.hang()) as silent,
        KeyServer(tmp_path, seconds=9) as server,
        Client(server.url, management=silent.url, key_file=server.key_file) as client,
    ):
        assert client.predict("m", b"").latency > 0.45
        for _ in range(5):
            client.predict("m", b"")
        assert silent.connections == 1  # the later calls do not try to renew the key


def test_a_key_is_not_renewed_on_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        client.predict("m", b"")
        assert server.renewals == []


def test_the_old_key_is_used_if_the_management_server_is_down(tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=5) as server,
        Client(server.url, management="http://127.0.0.1:1", key_file=server.key_file) as client,
    ):
        assert client.predict("m", b"").attempts == 1


def test_an_expired_key_that_cannot_be_renewed_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "PATIENCE", 0.2)
    with (
        KeyServer(tmp_path, seconds=-1) as server,
        Client(server.url, management="http://127.0.0.1:1", key_file=server.key_file) as client,
        pytest.raises(TokenExpired, match="did not renew it"),
    ):
        client.predict("m", b"")


def test_a_key_is_not_renewed_without_a_usable_lock_file(tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        (tmp_path / "key_file.json.lock").mkdir()
        client.predict("m", b"")
        server.ends["inference"] = time.time() - 1
        server.write()
        with pytest.raises(TokenExpired, match="The renewal failed"):
            client.predict("m", b"")
        assert server.renewals == []


def test_a_token_that_was_valid_before_and_is_refused_has_expired() -> None:
    good = [True]
    with (
        HTTPServer(lambda _: http(200, {}) if good else BAD_TOKEN) as server,
        Client(server.url, token="t0ken") as client,
    ):
        client.predict("m", b"")
        good.clear()
        with pytest.raises(TokenExpired, match="it was valid before") as caught:
            client.predict("m", b"")
        assert isinstance(caught.value, TokenError)
        assert "key_file.json" in str(caught.value.hint)


@pytest.mark.parametrize("when", [None, 3, "soon", "2020-01-01T00:00:00"])
def test_an_invalid_expiration_time_is_ignored(tmp_path: Path, when: object) -> None:
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps({"inference": {"key": "k", "expiration time": when}}))
    keys = KeyFile(file)
    keys.get("inference")
    left = keys.seconds_left("inference")
    assert (left is not None) == (when == "2020-01-01T00:00:00")
    assert keys.get("metrics") is None
