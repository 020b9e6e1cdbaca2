"""Responses are joined by request ID; each that is not has one reason."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shadow_digests import START

from vestal.shadow.digests import Digest, Side
from vestal.shadow.joining import BEFORE, MISSING, REPEATED, WAIT_SECONDS, WAITING, WITHOUT_ID, join

NOW = START + 1000


def side(*rows):
    """Of (request ID, seconds after START); a row's place is its index."""
    made = Side()
    for place, (request_id, at) in enumerate(rows):
        made.add(Digest(request_id, False, "", START + at, 0.1, 200, None, ""), place)
    return made


def joined(live, shadow):
    found = join(side(*live), side(*shadow), NOW)
    return found.pairs.tolist(), dict(found.live), dict(found.shadow)


def test_responses_are_joined_by_request_id_in_the_order_of_the_live_ones():
    pairs, live, shadow = joined([("a", 0), ("b", 1), ("c", 2)], [("c", 0), ("a", 1), ("b", 2)])
    assert pairs == [[0, 1], [1, 2], [2, 0]]
    assert (live, shadow) == ({}, {})


def test_a_response_that_comes_minutes_later_is_joined():
    assert joined([("a", 0), ("b", 1)], [("b", 2), ("a", 900)])[0] == [[0, 1], [1, 0]]


def test_a_clock_that_was_set_changes_no_pair():
    assert joined([("a", 0), ("b", 1e8)], [("a", -1e8), ("b", 5)])[0] == [[0, 0], [1, 1]]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_request_id_that_occurs_twice_on_a_side_is_not_joined(swapped):
    sides = [("a", 0), ("a", 0), ("b", 0)], [("a", 1), ("b", 1)]
    pairs, *reasons = joined(*(reversed(sides) if swapped else sides))
    assert len(pairs) == 1
    assert sorted((found[REPEATED] for found in reasons), reverse=not swapped) == (
        [1, 2] if swapped else [2, 1]
    )


def test_each_response_that_is_not_joined_has_a_reason():
    live = [("old", -5), ("a", 1), ("lost", 3), ("", 3), ("new", 1000 - WAIT_SECONDS / 2)]
    shadow = [("a", 0), ("only", 5)]
    pairs, of_live, of_shadow = joined(live, shadow)
    assert pairs == [[1, 0]]
    assert of_live == {BEFORE: 1, MISSING: 1, WAITING: 1, WITHOUT_ID: 1}
    assert of_shadow == {MISSING: 1}


def test_a_side_may_be_empty():
    assert joined([], []) == ([], {}, {})
    assert joined([("a", 0)], []) == ([], {MISSING: 1}, {})
    assert joined([], [("a", 0)]) == ([], {}, {MISSING: 1})


rows = st.lists(st.tuples(st.sampled_from(["", *"abcdefgh"]), st.integers(-10, 1100)), max_size=12)


@given(rows, rows)
def test_every_response_is_joined_or_has_a_reason(live, shadow):
    pairs, of_live, of_shadow = joined(live, shadow)
    # Places count only rows with an ID here, as `side` numbers all rows.
    counts = [Counter(request_id for request_id, _ in rows) for rows in (live, shadow)]
    expected = {n for n in counts[0] if n and counts[0][n] == counts[1][n] == 1}
    assert {live[a][0] for a, _ in pairs} == {shadow[b][0] for _, b in pairs} == expected
    assert all(live[a][0] == shadow[b][0] for a, b in pairs)
    assert len(pairs) + sum(of_live.values()) == len(live)
    assert len(pairs) + sum(of_shadow.values()) == len(shadow)
    assert all(count > 0 for count in [*of_live.values(), *of_shadow.values()])


def test_a_million_responses_are_joined_in_arrays():
    """24 bytes for each response, and as much again for the join; strings would take 200."""
    size = 1_000_000
    random = np.random.default_rng(0)
    keys = random.integers(0, 2**64, size, np.uint64, endpoint=False)
    live, shadow = Side(), Side()
    for one, order in ((live, np.arange(size)), (shadow, random.permutation(size))):
        one.keys.frombytes(keys[order].tobytes())
        one.places.frombytes(order.astype(np.uint64).tobytes())
        one.times.frombytes(np.full(size, START).tobytes())
    pairs = join(live, shadow, NOW).pairs
    assert (pairs == np.arange(size, dtype=np.uint64)[:, None]).all()
