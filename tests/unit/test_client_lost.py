"""A request that the server lost: a second copy goes, once one that was sent later is answered."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from client_both import both
from client_wire import WORKER_DIED, HTTPServer, http

from vestal import DeadlineExceeded, WorkerDied


class Losing:
    """Answers everything, but the first copies of the body "lost"."""

    def __init__(self, copies: int, second: bytes = http(body="second")) -> None:
        self.copies, self.second = copies, second
        self.seen = 0
        self.answer_first = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, received):
        if received.body != b"lost":
            return http(body="later")
        with self._lock:
            self.seen += 1
            number = self.seen
        if number > self.copies:
            return self.second
        self.answer_first.wait(10)
        return http(body="first")


def ask_and_overtake(client, timeout, overtake=True):
    """The call that is lost, and one that is sent later and answered."""
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(client.predict, "m", b"lost", timeout=timeout)
        time.sleep(0.2)
        if overtake:
            client.predict("m", b"other")
        return lost.result()


@both
def test_a_lost_request_is_answered_by_its_second_copy(kind):
    losing = Losing(1)
    with HTTPServer(losing) as server, kind(server.url, token="t") as client:
        began = time.monotonic()
        answer = ask_and_overtake(client, 3)
        assert (answer.value, answer.attempts, losing.seen) == ("second", 2, 2)
        assert 1.4 < time.monotonic() - began < 2.5  # at half of its time
        losing.answer_first.set()
        assert client.predict("m", b"other").attempts == 1


@both
def test_a_slow_request_keeps_its_first_copy(kind):
    losing = Losing(2)
    with HTTPServer(losing) as server, kind(server.url, token="t") as client:
        threading.Timer(2, losing.answer_first.set).start()
        answer = ask_and_overtake(client, 3)
        assert (answer.value, answer.attempts, losing.seen) == ("first", 2, 2)


@both
def test_nothing_is_sent_twice_where_nothing_overtook_it(kind):
    losing = Losing(1)
    with HTTPServer(losing) as server, kind(server.url, token="t") as client:
        client.predict("m", b"other")
        with pytest.raises(DeadlineExceeded, match="waiting for the answer, 1 attempt"):
            ask_and_overtake(client, 1, overtake=False)
        assert losing.seen == 1
        losing.answer_first.set()


@both
def test_both_copies_lost_end_at_the_deadline(kind):
    losing = Losing(2)
    with HTTPServer(losing) as server, kind(server.url, token="t") as client:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="2 attempts"):
            ask_and_overtake(client, 2)
        assert time.monotonic() - began < 2.2
        assert losing.seen == 2
        losing.answer_first.set()


@both
def test_a_second_copy_that_kills_its_worker_is_the_last(kind):
    losing = Losing(1, WORKER_DIED)
    with HTTPServer(losing) as server, kind(server.url, token="t") as client:
        with pytest.raises(WorkerDied):
            ask_and_overtake(client, 3)
        assert losing.seen == 2
        losing.answer_first.set()
