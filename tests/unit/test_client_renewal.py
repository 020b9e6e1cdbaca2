"""A key is renewed before it expires, by one client under a lock."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest
from client_both import both
from client_keys import KeyServer

from vestal import Client, DeadlineExceeded
from vestal.client import renewal


@both
def test_a_key_far_from_its_expiry_is_not_renewed(kind: type[Client], tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=60) as server, kind(**server.addresses()) as client:
        assert client.predict("m", b"").attempts == 1
        assert server.renewals == []


@both
@pytest.mark.parametrize("seconds", [5, -5])
def test_a_key_near_its_expiry_is_renewed_before_the_request(
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
def test_all_keys_near_their_expiry_are_renewed_on_request(
    kind: type[Client], tmp_path: Path
) -> None:
    with KeyServer(tmp_path, seconds=5) as server, kind(**server.addresses()) as client:
        client.renew_keys()
        assert server.renewals == ["inference", "management"]
        client.renew_keys()
        assert server.renewals == ["inference", "management"]


@both
def test_many_callers_renew_a_key_once(kind: type[Client], tmp_path: Path) -> None:
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
def test_a_key_that_another_process_has_renewed_is_read_again(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "GRACE", 20)
    with KeyServer(tmp_path) as server, kind(**server.addresses()) as client:
        client.predict("m", b"")
        server.writes = False
        server.renew("inference")  # the old key is invalid now; the file is written a moment later
        timer = threading.Timer(0.1, server.write)
        timer.start()
        assert client.predict("m", b"").attempts == 2
        timer.join()
        assert server.renewals == []


def test_while_another_process_holds_the_lock_the_old_key_is_used(tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=5) as server, Client(**server.addresses()) as client:
        with (tmp_path / "key_file.json.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert client.predict("m", b"").attempts == 1
            assert server.renewals == []
        assert client.predict("m", b"").attempts == 1
        assert server.renewals == ["inference"]


def test_a_call_with_an_expired_key_waits_while_another_process_renews_it(tmp_path: Path) -> None:
    with KeyServer(tmp_path, seconds=-1) as server, Client(**server.addresses()) as client:
        with (tmp_path / "key_file.json.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            timer = threading.Timer(0.2, server.renew, ["inference"])
            timer.start()
            assert client.predict("m", b"").attempts == 1
            timer.join()
        assert server.renewals == []


def test_a_call_with_a_refused_key_waits_while_another_process_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "GRACE", 0.05)
    with KeyServer(tmp_path) as server, Client(**server.addresses()) as client:
        client.predict("m", b"")
        server.writes = False
        server.renew("inference")
        with (tmp_path / "key_file.json.lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            timer = threading.Timer(0.3, server.write)
            timer.start()
            assert client.predict("m", b"").attempts == 2
            timer.join()


def test_a_call_that_waits_for_a_key_ends_at_its_deadline(tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=-1) as server,
        Client(**server.addresses()) as client,
        (tmp_path / "key_file.json.lock").open("w") as other,
    ):
        fcntl.flock(other, fcntl.LOCK_EX)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.predict("m", b"", timeout=0.4)
        assert time.monotonic() - started < renewal.PATIENCE


@both
def test_a_clock_that_is_ahead_causes_few_renewals(kind: type[Client], tmp_path: Path) -> None:
    with (
        KeyServer(tmp_path, seconds=5) as server,
        kind(**server.addresses()) as one,
        kind(**server.addresses()) as two,
    ):
        server.lifetime = 5  # as seen by a clock that is 55 seconds ahead
        for _ in range(5):
            one.predict("m", b"")
            two.predict("m", b"")
        assert len(server.renewals) <= 2  # one per client, before it has seen a key change


def test_an_incomplete_key_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "GRACE", 20)
    with KeyServer(tmp_path) as server, Client(**server.addresses()) as client:
        server.key_file.write_text('{"inference": {"k')
        timer = threading.Timer(0.1, server.write)
        timer.start()
        client.predict("m", b"")
        timer.join()


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
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
