"""Counts, dimensions and sizes of a request are checked before memory is allocated."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import hostile
import pytest
from doubling import write_doubler
from folders import as_json, ask, handler_of

from vestal.inprocess import Input, LoadedArchive

JSON = "application/json"


GZIP = {"content-encoding": "gzip"}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (hostile.tensor([2**31, 0]), 413, "2147483648 instances in one request"),
        (hostile.tensor([10**7, 0]), 413, "10000000 instances in one request"),
        (hostile.tensor([257], (1,) * 257), 413, "257 instances in one request"),
        (hostile.tensor([2, 10**9, 0]), 422, "has no values"),
        (hostile.tensor([0, 2**31, 2**31, 2**31]), 400, "no body"),
        (hostile.tensor([1] * 33, (1,)), 422, "33 dimensions in its shape, at most 32"),
        (hostile.tensor([1] * 65, (1,)), 422, "65 dimensions in its shape, at most 32"),
        (hostile.tensor([True], (1,)), 422, "shape must be a list of sizes"),
        (hostile.tensor([1.0], (1,)), 422, "shape must be a list of sizes"),
        (hostile.tensor([-1, 0], ()), 422, "shape must be a list of sizes"),
        (hostile.tensor([10**400], ()), 422, "shape must be a list of sizes"),
        (hostile.tensor([1, *[2**31] * 31], (1,)), 422, "values, got 1"),
        (hostile.tensor([1], (1,), id="i" * 2_000_000), 422, '"id" must be a string of at most'),
        (hostile.tensor([1], (1,), id=[[]] * 9), 422, '"id" must be a string of at most'),
    ],
)
def test_a_tensor_is_refused_by_its_shape_before_it_is_built(doubler, body, status, message):
    answer = hostile.predict_hostile(doubler, Input.raw(body, JSON))
    assert answer.status == status, answer.body[:500]
    assert message in answer.json()["message"]


def test_the_longest_of_several_tensors_counts(doubler):
    one = json.loads(hostile.tensor([1], (1,)))["inputs"][0]
    answer = hostile.predict_hostile(
        doubler, as_json({"inputs": [one, {**one, "name": "y", "shape": [10**7, 0]}]})
    )
    assert answer.status == 413


def test_no_error_repeats_a_long_name(doubler):
    for name in ("n" * 3_000_000, [0] * 1_000_000):
        tensor = {"name": name, "shape": [1], "datatype": "FLOAT", "data": [1]}
        answer = hostile.predict_hostile(doubler, as_json({"inputs": [tensor]}))
        assert answer.status == 422
        assert len(answer.body) < 2_000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (hostile.zipped_instances(6_600_000), "at most 10,000,000 (handler.max_json_bytes)"),
        (hostile.zipped_instances(3_000_000), "more than 2,000,000 values"),
        (hostile.zipped_instances(500_000), "500000 instances in one request, at most 256"),
        (gzip.compress(b"[" + b"[]," * 500_000 + b"[]]"), "500001 instances"),
        (gzip.compress(b'{"data":[' + b"{}," * 300_000 + b"{}]}"), "300001 instances"),
        (gzip.compress(b'{"x":[' + b"{}," * 3_000_000 + b"{}]}"), "more than 2,000,000 values"),
        (gzip.compress(b'"' + b"a" * 11_000_000 + b'"'), "handler.max_json_bytes"),
        (gzip.compress(b"[" * 3_000_000), "more than 2,000,000 values"),
    ],
)
def test_values_of_json_are_counted_before_it_is_parsed(doubler, body, message):
    answer = hostile.predict_hostile(doubler, Input.raw(body, JSON, **GZIP))
    assert answer.status == 413, answer.body[:500]
    assert message in answer.json()["message"]


def test_json_parsed_by_the_server_has_the_same_limits(tmp_path_factory):
    folder = write_doubler(tmp_path_factory.mktemp("parsed"))
    with LoadedArchive(folder, decode=True) as parsed:
        many = Input.raw(b'{"instances":[' + b"[]," * 300 + b"[]]}", JSON)
        assert ask(parsed, many).status == 413
        values = Input.raw(b'{"x":[' + b"1," * 2_000_000 + b"1]}", JSON)
        assert "2,000,000 values" in ask(parsed, values).json()["message"]


def test_the_limit_on_decompressed_bytes_holds_for_all_parts_together(doubler):
    part = gzip.compress(b"1" + bytes(9_000_000), mtime=0)
    form = Input.form(**{f"f{number}": (part, "x/y") for number in range(200)})
    answer = hostile.predict_hostile(doubler, Input(form.parts, {**form.headers, **GZIP}))
    assert answer.status == 413
    assert "more than 20,000,000 bytes in one request" in answer.json()["message"]


def test_files_of_a_form_are_counted_before_they_are_read(doubler):
    form = Input.form(**{f"f{number}": (b"1", "x/y") for number in range(257)})
    assert "257 instances" in hostile.predict_hostile(doubler, form).json()["message"]


def test_large_numbers_and_repeated_names_use_no_memory(doubler):
    for body in (b"1" * 100_000, b"[" + b"1" * 4000 + b"]", b"1e999999999", b"-" + b"9" * 400):
        assert hostile.predict_hostile(doubler, Input.raw(body, JSON)).status in (400, 422, 500)
    repeated = b"{" + b'"x":1.5,' * 100_000 + b'"x":2}'
    assert hostile.predict_hostile(doubler, Input.raw(repeated, JSON)).json() == {"doubled": 4.0}


@pytest.mark.slow
def test_the_memory_of_a_refused_request_is_released_before_the_batch_ends(doubler):
    """Eight bodies of 100 MB each in memory; only one is kept at a time."""
    body = b'{"y":[' + b'{"a":1},' * 600_000 + b"1]}"
    hostile.reset_peak()
    before = hostile.peak()
    answers = doubler.predict([Input.raw(body, JSON)] * 8 + [as_json(1)])
    assert [answer.status for answer in answers] == [422] * 8 + [200]
    assert hostile.peak() - before < 500_000_000


def test_explanations_of_one_request_are_counted(doubler):
    assert ask(doubler, as_json({"instances": [1] * 16}, explain="True")).status == 200
    answer = hostile.predict_hostile(doubler, as_json({"instances": [1] * 17}, explain="True"))
    assert answer.status == 413
    assert "17 explanations, at most 16" in answer.json()["message"]


def test_the_largest_response_of_an_oversized_batch_is_refused(doubler, monkeypatch):
    handler = handler_of(doubler)
    monkeypatch.setattr(handler, "options", replace(handler.options, max_response_bytes=3000))
    batch = [as_json({"instances": [1] * count}) for count in (1, 200, 50, 60)]
    answers = doubler.predict(batch)
    assert [answer.status for answer in answers] == [200, 413, 200, 200]
    assert "handler.max_response_bytes" in answers[1].json()["message"]
    assert sum(len(answer.body) for answer in answers) < 3000
