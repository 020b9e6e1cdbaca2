"""In any mix of good and bad requests, each gets exactly the response that it gets alone."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vestal.inprocess import Input

# The numbers for which doubling.py fails, with the status.
FAULTS = {"5": 500, "13": 500, "7": 500, "8": 500, "17": 422, "3.5": 500, "100": 507}
OTHERS = {
    b'"broken decode"': 500,
    b'"text"': 422,
    b"[1, 2]": 500,
    b"null": 422,
    b'{"instances": []}': 422,
    b"{nope": 400,
    b"[" * 40 + b"]" * 40: 413,
    b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 13]}]}': 500,
}


def as_json(body: bytes, zipped: bool = False) -> Input:
    if not zipped:
        return Input.raw(body, "application/json")
    zipped_body = gzip.compress(body, mtime=0)
    return Input.raw(zipped_body, "application/json", **{"content-encoding": "gzip"})


@pytest.fixture(scope="module")
def alone(doubler):
    """A function that returns the response to a body alone in its batch."""
    known = {}

    def answer(body: bytes):
        if body not in known:
            known[body] = fate(*doubler.predict([as_json(body)]))
        return known[body]

    return answer


def fate(answer, index=0):
    """Status, headers and body; the request ID of an error is checked and left out."""
    body = answer.body.replace(f'"request_id": "local-{index}"'.encode(), b"")
    assert b"request_id" not in body
    return answer.status, answer.headers, body


special = st.sampled_from([*FAULTS, "9", "99"])  # 9 becomes a picture, 99 fits only in pairs
integer = st.integers(-(2**22), 2**22).filter(lambda n: str(n) not in {*FAULTS, "101"}).map(str)
number = integer | special
several = st.lists(number, min_size=1, max_size=9)
bodies = st.one_of(
    integer.map(str.encode),
    special.map(str.encode),
    st.sampled_from(sorted(OTHERS)),
    several.map(lambda values: f'{{"instances": [{", ".join(values)}]}}'.encode()),
    several.map(lambda values: f"[{', '.join(f'[{value}]' for value in values)}]".encode()),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(bodies, st.booleans()), min_size=1, max_size=64))
def test_every_request_of_a_batch_gets_the_response_that_it_gets_alone(doubler, alone, mix):
    answers = doubler.predict([as_json(body, zipped) for body, zipped in mix])
    assert len(answers) == len(mix)
    for index, (body, _) in enumerate(mix):
        assert fate(answers[index], index) == alone(body), body


@pytest.mark.parametrize("size", [1, 2, 3, 8, 31, 64])
def test_every_bad_request_among_good_ones_gets_its_own_error(doubler, size):
    bad = {**{value.encode(): status for value, status in FAULTS.items()}, **OTHERS}
    for body, status in bad.items():
        for place in {0, size // 2, size - 1}:
            batch = [str(1000 + number).encode() for number in range(size)]
            batch[place] = body
            answers = doubler.predict([as_json(each) for each in batch])
            assert answers.pop(place).status == status, body
            expected = [2000 + 2 * number for number in range(size) if number != place]
            assert [answer.json() for answer in answers] == [{"doubled": n} for n in expected]
