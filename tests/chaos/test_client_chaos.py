"""The client keeps its word while workers and servers die; the full forms: `make chaos-client`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from benchmarks.client_batches import SHORT_SETTINGS, batches
from benchmarks.client_chaos import drains, failures, killer, kills, prepare, restart
from benchmarks.client_server import Torchserve, torchserve
from benchmarks.client_token_load import TokenLoad

TOKEN_SECONDS = 58
"""Keys are good for 60 s here, and renewed 10 s before."""


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


def test_a_lone_caller_is_answered_although_its_worker_is_killed_while_it_gathers(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    check("batches", batches(tokens[0], SHORT_SETTINGS[:1], 2.5, every=1)[0])


def test_an_input_that_kills_costs_two_workers_and_no_neighbor(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    check("killer", killer(tokens[0], 1)[0])


def test_versions_are_drained_under_load_and_nothing_is_lost(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    check("drains", drains(tokens[0], 2)[0])


def test_keys_that_expire_are_renewed_once_and_nobody_fails(
    tokens: tuple[Torchserve, TokenLoad],
) -> None:
    _, load = tokens
    time.sleep(max(0.0, TOKEN_SECONDS - load.seconds))  # until a key has come to its end
    load.finish()
    check("tokens", load.result)
    assert 1 <= load.result["renewals"] <= 1 + load.result["seconds"] / 45


def test_a_server_that_is_killed_and_started_again_loses_no_call_with_time_left() -> None:
    with torchserve() as server:
        server.start(prepare(server)[:1])
        check("restart", restart(server, 1)[0])
