"""Requests in every format, and the result of each of their instances."""

from __future__ import annotations

import gzip
import json

import pytest

from vestal.inprocess import Input


def as_json(value, **headers):
    return Input.raw(json.dumps(value).encode(), "application/json", **headers)


def ask(loaded, sent):
    (answer,) = loaded.predict([sent])
    return answer


def tensor(data, shape, datatype="FP32", **more):
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **more}


ONE = {"doubled": 3.0}
ONE_EACH = {
    "raw body": Input.raw(b"1.5"),
    "JSON number": as_json(1.5),
    "JSON with charset": Input.raw(b"1.5", "application/json; charset=utf-8"),
    "JSON of another kind": Input.raw(b"1.5", "application/vnd.x+json"),
    "data": as_json({"data": 1.5}),
    "data of one row": as_json({"data": [1.5]}),
    "object": as_json({"x": 1.5}),
    "form field": Input.form({"x": "1.5"}),
    "form field data": Input.form({"data": "1.5"}),
    "form file": Input.form(f=(b"1.5", "application/octet-stream")),
    "form file of JSON": Input.form(f=(b'{"data": 1.5}', "application/json")),
    "gzip": Input.raw(gzip.compress(b"1.5"), "application/json", **{"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("way", ONE_EACH)
def test_one_number_is_read_from_every_format(doubler, way):
    answer = ask(doubler, ONE_EACH[way])
    assert (answer.status, answer.json()) == (200, ONE)


MANY_EACH = {
    "instances": as_json({"instances": [1.5, [2], {"x": 3}]}),
    "instances of data": as_json({"instances": [{"data": 1.5}, 2, 3]}),
    "rows": as_json([[1.5], [2], [3]]),
    "rows as data": as_json({"data": [[1.5], {"x": 2}, [3]]}),
    "files": Input.form(a=(b"1.5", "application/json"), b=(b"2", "x/y"), c=(b"3", "x/y")),
}


@pytest.mark.parametrize("way", MANY_EACH)
def test_several_numbers_are_read_from_every_format(doubler, way):
    answer = ask(doubler, MANY_EACH[way])
    assert answer.status == 200
    assert answer.json() == {"predictions": [{"doubled": 3.0}, {"doubled": 4.0}, {"doubled": 6.0}]}
    assert "x-failed-instances" not in answer.headers


def test_a_bad_row_among_rows_fails_alone(doubler):
    answer = ask(doubler, as_json([[1], ["a"], [13], [2]]))
    assert answer.status == 200
    assert answer.headers["x-failed-instances"] == "2"
    codes = [p.get("code", 200) for p in answer.json()["predictions"]]
    assert codes == [200, 422, 500, 200]


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (Input({}, {"content-type": "application/x-www-form-urlencoded"}), 400, "no named field"),
        (Input.form({"x": "1"}, f=(b"1", "x/y")), 422, "cannot have other fields; remove x"),
        (Input.raw(b"abc", **{"content-encoding": "gzip"}), 400, "is not gzip or ends early"),
        (
            Input.raw(gzip.compress(b"1")[:-4], **{"content-encoding": "gzip"}),
            400,
            "is not gzip or ends early",
        ),
        (Input.raw(b"abc", **{"content-encoding": "br"}), 415, "send gzip, or none"),
        (
            Input.raw(gzip.compress(bytes(20_000_001)), **{"content-encoding": "gzip"}),
            413,
            "20,000,000 bytes",
        ),
        (Input.raw(b'{"a":' * 40 + b"1" + b"}" * 40, "application/json"), 413, "deeper than 32"),
        (Input.raw(b"[" * 5000 + b"]" * 5000, "application/json"), 413, "deeper than 32"),
        (Input.raw(b"\xff{", "application/json"), 400, "not JSON"),
        (Input.raw(b'"\\ud800"', "application/json"), 400, "lone surrogate"),
        (as_json({"instances": {}}), 422, "a list of at least one"),
    ],
)
def test_an_unreadable_body_is_refused_with_the_reason(doubler, sent, status, message):
    good, answer, last = doubler.predict([as_json(1), sent, as_json(2)])
    assert (good.status, answer.status, last.status) == (200, status, 200), answer.body
    assert message in answer.json()["message"]


def test_a_gzip_bomb_stops_at_the_limit(doubler):
    bomb = gzip.compress(bytes(500_000_000), 9)
    assert len(bomb) < 1_000_000
    answer = ask(doubler, Input.raw(bomb, **{"content-encoding": "gzip"}))
    assert answer.status == 413


def test_media_is_the_body_of_one_prediction_and_base64_among_several(doubler):
    alone = ask(doubler, as_json(9))
    assert (alone.body, alone.headers["content-type"]) == (b"nine", "image/png")
    among = ask(doubler, as_json({"instances": [9, 1]})).json()["predictions"]
    assert among[0] == {"b64": "bmluZQ==", "content_type": "image/png"}


def test_explanations_and_predictions_share_a_batch(doubler):
    answers = doubler.predict(
        [as_json(1), as_json(2, explain="True"), as_json(13, explain="True"), as_json(4)]
    )
    assert [answer.status for answer in answers] == [200, 200, 500, 200]
    assert answers[1].json() == {"because": 2.0}
    assert answers[3].json() == {"doubled": 8.0}


# --- The Open Inference Protocol v2 ---------------------------------------------------------------


def test_a_v2_tensor_gives_a_v2_tensor(doubler):
    answer = ask(doubler, as_json(tensor([1, 2, 3], [3], id="a-7")))
    assert answer.json() == {
        "model_name": "doubler",
        "model_version": "1.0",
        "id": "a-7",
        "outputs": [{"name": "doubled", "shape": [3], "datatype": "FP64", "data": [2.0, 4.0, 6.0]}],
    }


def test_a_flat_tensor_and_a_nested_one_are_the_same(doubler):
    flat = ask(doubler, as_json(tensor([1, 2], [2, 1])))
    nested = ask(doubler, as_json(tensor([[1], [2]], [2, 1])))
    assert flat.json() == nested.json()


def test_rows_of_several_v2_inputs_are_objects_by_name(doubler):
    document = tensor([1, 2], [2])
    document["inputs"].append({"name": "y", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]})
    assert ask(doubler, as_json(document)).json()["outputs"][0]["data"] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("document", "status", "message"),
    [
        (tensor(["a", "b"], [2], "BYTES"), 422, "row 0: expected a number, got the string 'a'"),
        (tensor([1, 17], [2]), 422, "row 1: not 17"),
        (tensor([1, 13], [2]), 500, "failed at forward"),
        (tensor([1, 2], [3]), 422, "shape [3] needs 3 values, got 2"),
        (tensor([1, "x"], [2]), 422, "input 'x': data is not FP32"),
        (tensor([300], [1], "UINT8"), 422, "data is not UINT8"),
        (tensor([1], [1], "FLOAT"), 422, "datatype 'FLOAT' is unknown; expected BYTES or one of"),
        (tensor([1], [-1]), 422, "shape must be a list of sizes"),
        (tensor([1], []), 422, "shape must be a list of sizes"),
        (tensor(1, [1]), 422, "expected a name and a list as data"),
        (tensor([1], [1, 99999999, 99999999]), 422, "needs 9999999800000001 values, got 1"),
        (tensor([], [0]), 400, "no body"),
        ({"inputs": []}, 422, "at least one tensor"),
        (
            {"inputs": [*tensor([1], [1])["inputs"], *tensor([1], [1])["inputs"]]},
            422,
            "different names",
        ),
    ],
)
def test_an_error_in_one_row_fails_the_whole_tensor(doubler, document, status, message):
    answer = ask(doubler, as_json(document))
    assert answer.status == status, answer.body
    assert message in answer.json()["message"]
