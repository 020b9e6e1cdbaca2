"""A key is renewed before it expires, by one client under a lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from client_both import both
from client_wire import BAD_TOKEN, HTTPServer, Received, WireServer, error, http

from vestal import Client, TokenError, TokenExpired
from vestal.client import renewal
from vestal.client.tokens import KeyFile


class KeyServer(HTTPServer):
    """TorchServe's tokens: a key file, two keys that expire, an API that makes new ones."""

    def __init__(self, folder: Path, *, seconds: float = 60) -> None:
        super().__init__(self._say)
        self.key_file = folder / "key_file.json"
        self.lifetime = 60.0
        self.renewals: list[str] = []
        self.writes = True
        self.says: bytes | None = None
        self.ends = {api: time.time() + seconds for api in ("inference", "management")}
        self.numbers = {"inference": 1, "management": 1}
        self.lock = threading.Lock()
        self.write()

    def key(self, api: str) -> str:
        return f"{api}-{self.numbers[api]}"

    def write(self, **more: object) -> None:
        def when(api: str) -> str:
            moment = datetime.fromtimestamp(self.ends[api], UTC)
            return moment.isoformat().replace("+00:00", "123Z")

        keys: dict[str, object] = {
            api: {"key": self.key(api), "expiration time": when(api)}
            for api in ("inference", "management")
        }
        self.key_file.write_text(json.dumps({**keys, "API": {"key": "api"}, **more}))

    def make(self, api: str) -> None:
        self.numbers[api] += 1
        self.ends[api] = time.time() + self.lifetime
        if self.writes:
            self.write()

    def _say(self, request: Received) -> bytes:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        with self.lock:
            if request.path == "/token":
                if token != "api":
                    return BAD_TOKEN
                self.renewals.append(request.query["type"])
                if self.says is not None:
                    return self.says
                self.make(request.query["type"])
                return http(200, b"\n")
            api = "inference" if request.path.startswith("/predictions") else "management"
            if token != self.key(api) or time.time() > self.ends[api]:
                return BAD_TOKEN
            return http(200, {} if api == "inference" else {"models": []})

    def addresses(self) -> dict[str, str]:
        return {"url": self.url, "management": self.url, "key_file": str(self.key_file)}


@both
def test_a_key_far_from_its_end_is_left_alone(kind: type[Client], tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=11) as server, kind(**server.addresses()) as client:
        assert client.predict("m", b"").attempts == 1
        assert server.renewals == []


@both
@pytest.mark.parametrize("seconds", [5, -5])
def test_a_key_near_its_end_is_renewed_before_it_is_sent(
    kind: type[Client], tmp_path: Path, seconds: float
) -> None:
    with KeyServer(tmp_path, seconds=seconds) as server, kind(**server.addresses()) as client:
        assert client.predict("m", b"").attempts == 1
        assert client.predict("m", b"").attempts == 1
        assert server.renewals == ["inference"]
        client.models()
        assert server.renewals == ["inference", "management"]
    assert (tmp_path / "key_file.json.lock").stat().st_mode & 0o777 == 0o600


@both
def test_many_callers_renew_once(kind: type[Client], tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=3) as server,
        kind(**server.addresses()) as one,
        kind(**server.addresses()) as two,
    ):
        threads = [
            threading.Thread(target=client.predict_many, args=("m", [b""] * 40))
            for client in (one, two)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        results = [*one.predict_many("m", [b""] * 8), *two.predict_many("m", [b""] * 8)]
        assert [result for result in results if isinstance(result, Exception)] == []
        assert server.renewals == ["inference"]


@both
def test_a_key_that_another_process_renewed_meanwhile_is_read_again(
    kind: type[Client], tmp_path: Path
) -> None:
    with KeyServer(tmp_path) as server, kind(**server.addresses()) as client:
        client.predict("m", b"")
        server.writes = False
        server.make("inference")  # the old key is void, and the file says so a moment later
        timer = threading.Timer(0.1, server.write)
        timer.start()
        assert client.predict("m", b"").attempts == 2
        timer.join()
        assert server.renewals == []


def test_a_client_that_finds_the_lock_taken_uses_the_old_key(tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        with (tmp_path / "key_file.json.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert client.predict("m", b"").attempts == 1
            assert server.renewals == []
        assert client.predict("m", b"").attempts == 1
        assert server.renewals == ["inference"]


def test_an_expired_key_is_waited_for_while_another_renews_it(tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=-1) as server, Client(**server.addresses()) as client:
        with (tmp_path / "key_file.json.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            timer = threading.Timer(0.2, server.make, ["inference"])
            timer.start()
            assert client.predict("m", b"").attempts == 1
            timer.join()
        assert server.renewals == []


def test_a_refused_key_is_waited_for_while_another_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "GRACE", 0.05)
    with KeyServer(tmp_path) as server, Client(**server.addresses()) as client:
        client.predict("m", b"")
        server.writes = False
        server.make("inference")
        with (tmp_path / "key_file.json.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            timer = threading.Timer(0.3, server.write)
            timer.start()
            assert client.predict("m", b"").attempts == 2
            timer.join()


def test_a_waiting_call_keeps_its_deadline(tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=-1) as server,
        Client(**server.addresses()) as client,
        (tmp_path / "key_file.json.lock").open("w") as other,
    ):
        fcntl.flock(other, fcntl.LOCK_EX)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            client.predict("m", b"", timeout=0.4)
        assert time.monotonic() - started < 0.6


def test_without_a_management_address_a_key_expires(tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=-1) as server,
        Client(server.url, key_file=server.key_file) as client,
    ):
        with pytest.raises(TokenExpired, match=r"expired at 20.*management=") as caught:
            client.predict("m", b"")
        assert server.renewals == []
    assert caught.value.status == 400


@pytest.mark.parametrize("api", [{}, {"key": 3}, "text"])
def test_without_an_api_key_a_key_expires(tmp_path: Path, api: object) -> None:
    with KeyServer(tmp_path, seconds=-1) as server, Client(**server.addresses()) as client:
        server.write(API=api)
        with pytest.raises(TokenExpired, match="the file has no API key"):
            client.predict("m", b"")


def test_a_copy_of_the_key_file_is_renewed_once_at_most(
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
        server.make("inference")  # a new file: everything is open again
        server.ends["inference"] = time.time() + 5
        server.write()
        client.predict("m", b"")
        assert server.renewals == ["inference", "inference"]


def test_a_copy_whose_key_was_voided_early_has_expired(tmp_path: Path) -> None:
    with KeyServer(tmp_path) as server, Client(**server.addresses()) as client:
        client.predict("m", b"")
        server.writes = False
        server.make("inference")  # another key, in the server's own file
        with pytest.raises(TokenExpired, match=r"it was valid before.*or a copy"):
            client.predict("m", b"")


def test_a_failed_renewal_is_retried_a_little_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "REST", 0.3)
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        server.says = error(500, "InternalServerException", "no")
        client.predict("m", b"")
        client.predict("m", b"")
        assert server.renewals == ["inference"]
        server.says = None
        time.sleep(0.3)
        client.predict("m", b"")
        client.predict("m", b"")
        assert server.renewals == ["inference", "inference"]


def test_a_refused_renewal_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "REST", 0)
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        server.says = error(405, "MethodNotAllowedException", "no token API")
        client.predict("m", b"")
        client.predict("m", b"")
        assert server.renewals == ["inference"]


@both
def test_a_clock_that_runs_ahead_makes_no_storm(kind: type[Client], tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=5) as server,
        kind(**server.addresses()) as one,
        kind(**server.addresses()) as two,
    ):
        server.lifetime = 5  # as a clock sees it that is ahead by the rest of it
        for _ in range(5):
            one.predict("m", b"")
            two.predict("m", b"")
        assert len(server.renewals) <= 2  # once for each that has never seen a key change


def test_a_management_address_that_swallows_packets_costs_one_call_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "LIMIT", 0.5)
    with (
        WireServer(lambda connection: connection.hang()) as silent,
        KeyServer(tmp_path, seconds=5) as server,
        Client(server.url, management=silent.url, key_file=server.key_file) as client,
    ):
        assert client.predict("m", b"").latency > 0.45
        assert max(client.predict("m", b"").latency for _ in range(5)) < 0.45


def test_where_the_file_system_has_no_locks_nothing_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        client.predict("m", b"")
        assert server.renewals == []


def test_a_management_address_that_is_dead_leaves_the_old_key_to_be_used(tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=5) as server,
        Client(server.url, management="http://127.0.0.1:1", key_file=server.key_file) as client,
    ):
        assert client.predict("m", b"").attempts == 1


def test_an_expired_key_without_renewal_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "PATIENCE", 0.2)
    with (
        KeyServer(tmp_path, seconds=-1) as server,
        Client(server.url, management="http://127.0.0.1:1", key_file=server.key_file) as client,
        pytest.raises(TokenExpired, match="did not make it"),
    ):
        client.predict("m", b"")


def test_where_no_lock_can_be_had_nothing_is_renewed(
    tmp_path: Path,
) -> None:
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        (tmp_path / "key_file.json.lock").mkdir()
        client.predict("m", b"")
        server.ends["inference"] = time.time() - 1
        server.write()
        with pytest.raises(TokenExpired, match="could not be renewed"):
            client.predict("m", b"")
        assert server.renewals == []


def test_a_half_written_key_file_is_looked_at_again(tmp_path: Path) -> None:
    with KeyServer(tmp_path) as server, Client(**server.addresses()) as client:
        server.key_file.write_text('{"inference": {"k')
        timer = threading.Timer(0.1, server.write)
        timer.start()
        client.predict("m", b"")
        timer.join()


def test_a_process_that_dies_leaves_no_lock(tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            descriptor = os.open(tmp_path / "key_file.json.lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(write, b"x")
            time.sleep(60)
        os.read(read, 1)
        client.predict("m", b"")
        assert server.renewals == []
        os.kill(child, 9)
        os.waitpid(child, 0)
        client.predict("m", b"")
        assert server.renewals == ["inference"]
        os.close(read)
        os.close(write)


def test_a_token_that_was_good_and_is_refused_has_expired() -> None:
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
