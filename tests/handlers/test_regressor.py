"""Rows of numbers in every format; errors name the field."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from folders import as_json, ask, handler_of, write_archive
from torch import nn

from vestal.errors import VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.requests.request import read_request

NAMES = ["bmi", "bp", "s5"]
OPTIONS = {"features": NAMES, "target": "progression", "units": "points after a year"}
TRANSFORMS = """
import torch

MEAN, STD = torch.tensor([0.01, -0.02, 0.03]), torch.tensor([0.05, 0.04, 0.06])


def transform(row):
    return (row - MEAN) / STD
"""
ROWS = [[0.06, 0.02, 0.01], [-0.05, 0.0, 0.03], [0.1, -0.03, -0.04]]


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, 1))
    with torch.no_grad():
        net[2].bias.fill_(152.0)
    return net


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    write_archive(folder, "regressor", network(), options=OPTIONS, transforms=TRANSFORMS)
    with LoadedArchive(folder) as loaded:
        yield loaded


def plain(row):
    """The prediction of a plain script."""
    inputs = (torch.tensor(row) - torch.tensor([0.01, -0.02, 0.03])) / torch.tensor(
        [0.05, 0.04, 0.06]
    )
    with torch.no_grad():
        return network().eval()(inputs.unsqueeze(0)).item()


@pytest.mark.parametrize("row", ROWS)
def test_a_prediction_equals_that_of_a_plain_script(archive, row):
    answer = ask(archive, as_json(row)).json()
    assert answer == {
        "prediction": pytest.approx(plain(row), rel=1e-6),
        "units": "points after a year",
    }


BY_NAME = dict(zip(NAMES, ROWS[0], strict=True))


@pytest.mark.parametrize(
    "sent",
    [
        as_json(BY_NAME),
        as_json(dict(reversed(BY_NAME.items()))),
        as_json({"data": BY_NAME}),
        as_json({"data": ROWS[0]}),
        Input.raw(json.dumps(BY_NAME).encode()),
        Input.raw(json.dumps(ROWS[0]).encode()),
        Input.form({name: str(value) for name, value in BY_NAME.items()}),
        Input.form({"bmi": " 6e-2 ", "bp": "+.02", "s5": "1e-2"}),
    ],
)
def test_every_way_to_send_a_row_gives_the_same_prediction(archive, sent):
    answer = ask(archive, sent)
    assert answer.status == 200, answer.body
    assert answer.json()["prediction"] == pytest.approx(plain(ROWS[0]), rel=1e-6)


@pytest.mark.parametrize(
    "sent",
    [
        as_json(ROWS),
        as_json({"data": ROWS}),
        as_json({"instances": ROWS}),
        as_json([dict(zip(NAMES, row, strict=True)) for row in ROWS]),
        Input.raw(json.dumps(ROWS).encode()),
        Input.raw(json.dumps({"instances": ROWS}).encode()),
        Input.raw(json.dumps({"data": ROWS}).encode(), "text/plain"),
        Input.raw(gzip.compress(json.dumps(ROWS).encode()), **{"content-encoding": "gzip"}),
        Input.form(rows=(json.dumps(ROWS).encode(), "application/octet-stream")),
    ],
)
def test_each_of_many_rows_gets_a_prediction(archive, sent):
    answer = ask(archive, sent)
    assert answer.status == 200, answer.body
    got = [one["prediction"] for one in answer.json()["predictions"]]
    assert got == pytest.approx([plain(row) for row in ROWS], rel=1e-5)


def test_a_bad_row_does_not_affect_the_others(archive):
    answer = ask(archive, as_json([ROWS[0], [1, 2], ROWS[1]]))
    assert answer.headers["x-failed-instances"] == "1"
    first, bad, last = answer.json()["predictions"]
    assert first["prediction"] == pytest.approx(plain(ROWS[0]), rel=1e-5)
    assert (bad["code"], bad["message"]) == (
        422,
        "the row must have exactly 3 items (bmi, bp, s5), got 2",
    )
    assert last["prediction"] == pytest.approx(plain(ROWS[1]), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "body", "payloads"),
    [("text/plain", json.dumps(ROWS), ROWS), ("application/json", "x", ["x"])],
)
def test_text_parsed_by_the_server_is_read_as_json(archive, kind, body, payloads):
    """TorchServe without configuration passes text as str, and parsed JSON."""
    headers = {"content-type": kind, "body": {"content-type": kind}}
    read = read_request(0, "one", {"body": body}, headers, handler_of(archive))
    assert [instance.payload for instance in read.instances] == payloads


def test_a_bad_request_does_not_affect_its_neighbours(archive):
    answers = archive.predict([as_json(ROWS[0]), as_json({"bmi": "x"}), as_json(ROWS[1])])
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert answers[2].json()["prediction"] == pytest.approx(plain(ROWS[1]), rel=1e-5)


def with_bmi(text):
    return Input.raw(f'{{"bmi": {text}, "bp": 0.02, "s5": 0.01}}'.encode(), "application/json")


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (with_bmi("NaN"), 422, "field 'bmi' must be a finite number, got NaN"),
        (with_bmi("-Infinity"), 422, "field 'bmi' must be a finite number, got -Infinity"),
        (with_bmi("1e400"), 422, "field 'bmi' must be a finite number, got Infinity"),
        (with_bmi("1e39"), 422, "field 'bmi' must be at most 3.4028235e+38, got 1e+39"),
        (
            with_bmi("3.4e38"),
            422,
            "the row is out of range; after standardization it is not finite",
        ),
        (with_bmi('"0.06"'), 422, "field 'bmi' must be a number, got a string \"0.06\""),
        (with_bmi("true"), 422, "field 'bmi' must be a number, got true"),
        (with_bmi("null"), 422, "field 'bmi' must be a number, got null"),
        (with_bmi("[0.06]"), 422, "field 'bmi' must be a number, got a list of 1"),
        (as_json({"bmi": 1, "bp": 2}), 422, "field 's5' is missing: the row needs bmi, bp, s5"),
        (
            as_json({**BY_NAME, "bpm": 1}),
            422,
            "field 'bpm' is unknown: did you mean 'bp'? the fields are bmi, bp, s5",
        ),
        (as_json([1, 2, "3"]), 422, "field 's5' must be a number, got a string \"3\""),
        (as_json([1, 2, 3, 4]), 422, "the row must have exactly 3 items (bmi, bp, s5), got 4"),
        (as_json([]), 422, "the row must have exactly 3 items (bmi, bp, s5), got 0"),
        (as_json("x"), 422, 'the row must be an object or a list, got a string "x"'),
        (as_json(5), 422, "the row must be an object or a list, got 5"),
        (as_json(None), 422, "the row must be an object or a list, got null"),
        (Input.raw(b"no JSON"), 400, "the body is not JSON: "),
        (Input.raw(b""), 400, "the body is not JSON: "),
        (
            Input.form({"bmi": "nan", "bp": "1", "s5": "1"}),
            422,
            "field 'bmi' must be a number, got a string \"nan\"",
        ),
        (
            Input.form({"bmi": "1_0", "bp": "1", "s5": "1"}),
            422,
            "field 'bmi' must be a number, got a string \"1_0\"",
        ),
        (
            Input.form({"bmi": "0.1"}),
            422,
            "field 'bp' is missing: the row needs bmi, bp, s5",
        ),
    ],
)
def test_an_invalid_input_is_refused_with_the_reason(archive, sent, status, message):
    answer = ask(archive, sent)
    assert answer.status == status
    assert answer.json()["message"].startswith(message)


def test_without_transforms_the_model_gets_the_unchanged_row(tmp_path):
    write_archive(tmp_path, "regressor", network(), options={"features": NAMES})
    with LoadedArchive(tmp_path) as loaded, torch.no_grad():
        answer = ask(loaded, as_json(ROWS[0])).json()
        assert answer == {"prediction": pytest.approx(network()(torch.tensor(ROWS[0])).item())}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"handler\.features in model-config\.yaml is missing.*a list of str"),
        ({"features": "bmi"}, r"handler\.features .* must be a list of str, not 'bmi' \(str\)"),
        ({"features": ["bmi", 5]}, r"handler\.features .* must be a list of str"),
        ({"features": NAMES, "unit": "x"}, r"handler\.unit .* did you mean units"),
    ],
)
def test_an_invalid_option_fails_the_load_with_its_name(tmp_path, options, message):
    write_archive(tmp_path, "regressor", network(), options=options)
    with pytest.raises(VestalError, match=message):
        LoadedArchive(tmp_path)


def test_the_example_of_describe_is_predicted(archive):
    described = ask(archive, Input({}, {"describe": "True"})).json()
    by_name, by_position = described["input"]["anyOf"]
    assert by_name["required"] == NAMES
    assert [item["title"] for item in by_position["prefixItems"]] == NAMES
    assert described["output"]["properties"]["prediction"]["title"] == "progression"
    answer = ask(archive, as_json(described["example"]))
    assert answer.status == 200
    assert answer.json()["units"] == "points after a year"


def test_inputs_and_predictions_match_their_schemas(archive):
    jsonschema = pytest.importorskip("jsonschema")
    handler = handler_of(archive)
    for schema in (handler.input_schema(), handler.output_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(handler.example(), handler.input_schema())
    jsonschema.validate(ask(archive, as_json(ROWS[0])).json(), handler.output_schema())


def test_the_attributions_of_a_row_add_up(archive):
    answer = ask(archive, as_json(BY_NAME, explain="True")).json()
    assert answer["method"] == "integrated_gradients"
    assert answer["units"] == "points after a year"
    assert list(answer["attributions"]) == NAMES
    mean = plain([0.01, -0.02, 0.03])
    assert answer["baseline_prediction"] == pytest.approx(mean, rel=1e-6)
    difference = plain(ROWS[0]) - mean
    assert sum(answer["attributions"].values()) == pytest.approx(difference, abs=5e-3)


def test_the_attributions_of_a_linear_model_are_its_terms(tmp_path):
    line = nn.Linear(3, 1)
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[2.0, -3.0, 0.0]]))
    write_archive(tmp_path, "regressor", line, options={"features": NAMES})
    with LoadedArchive(tmp_path) as loaded:
        answer = ask(loaded, as_json([5, 7, 9], explain="True")).json()
    assert answer["attributions"] == pytest.approx({"bmi": 10, "bp": -21, "s5": 0}, abs=1e-4)


def test_predictions_and_explanations_share_a_batch(archive):
    batch = [
        as_json(ROWS[0]),
        as_json(ROWS[1], explain="True"),
        as_json([1, 2], explain="True"),
        as_json(ROWS[2]),
        as_json(ROWS[:2], explain="True"),
    ]
    answers = archive.predict(batch)
    assert [answer.status for answer in answers] == [200, 200, 422, 200, 200]
    assert "attributions" not in answers[0].json()
    assert answers[1].json()["prediction"] == pytest.approx(plain(ROWS[1]), rel=1e-6)
    assert "attributions" in answers[1].json()
    assert answers[3].json()["prediction"] == pytest.approx(plain(ROWS[2]), rel=1e-6)
    both = answers[4].json()["predictions"]
    assert [one["prediction"] for one in both] == pytest.approx(
        [plain(row) for row in ROWS[:2]], rel=1e-5
    )
