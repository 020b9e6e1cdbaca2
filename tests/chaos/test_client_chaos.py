"""No call is lost while workers and servers die; `make chaos-client` runs for longer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from benchmarks.client_batches import SHORT_SETTINGS, batches
from benchmarks.client_chaos import drains, failures, killer, kills, prepare, restart
from benchmarks.client_server import Torchserve, torchserve
from benchmarks.client_token_load import TokenLoad

pytestmark = pytest.mark.slow

TOKEN_SECONDS = 58
"""Keys are valid for 60 s and are renewed 10 s before they expire."""


@pytest.fixture(scope="module")
def tokens() -> Iterator[tuple[Torchserve, TokenLoad]]:
    """A server whose keys expire every minute, and three processes that call it all the time."""
    with torchserve(token_minutes=1) as server:
        server.start(prepare(server)[:4])
        load = TokenLoad(server, "steady", 3)
        with load:
            yield server, load


def check(name: str, result: dict[str, object]) -> None:
    print(json.dumps({"scenario": name, **result}))
    assert failures(name, result) == []


def test_no_call_fails_when_ready_workers_are_killed(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    check("kills", kills(tokens[0], 16, 8)[0])


def test_a_single_caller_gets_a_response_although_its_worker_is_killed(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    check("batches", batches(tokens[0], SHORT_SETTINGS[:1], 2.5, every=1)[0])


def test_an_input_that_kills_workers_harms_no_other_call(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    check("killer", killer(tokens[0], 1)[0])


def test_draining_under_load_loses_no_request(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    check("drains", drains(tokens[0], 2)[0])


def test_expiring_keys_are_renewed_once_and_no_call_fails(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    _, load = tokens
    time.sleep(max(0.0, TOKEN_SECONDS - load.seconds))  # until a key has come to its end
    load.finish()
    check("tokens", load.result)
    assert 1 <= load.result["renewals"] <= 1 + load.result["seconds"] / 45


def test_calls_with_time_left_survive_a_restart_of_the_server() -> None:
    with torchserve() as server:
        server.start(prepare(server)[:1])
        check("restart", restart(server, 1)[0])
