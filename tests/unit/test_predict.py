"""Inputs and output of `vestal predict`; tests/e2e has predictions of real servers."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from vestal.cli import predict
from vestal.cli.inputs import fitted, gather
from vestal.client.errors import RequestRefused
from vestal.client.flow import HTTPResponse
from vestal.client.prediction import Prediction
from vestal.client.tracing import Trace
from vestal.errors import UsageError


def prediction(text):
    response = HTTPResponse(200, "OK", {"content-type": "application/json"}, text.encode())
    return Prediction.from_reply(
        response, model="m", latency=0.1, attempts=1, trace=Trace("c", "t")
    )


@pytest.fixture
def printed(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(predict, "out", Console(file=stream, width=100, highlight=False))
    return stream.getvalue


ROW = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"bmi": {"type": "number"}, "bp": {"type": "number"}},
            "required": ["bmi", "bp"],
        },
        {"type": "array"},
    ]
}
TEXT = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"text": {"type": "string"}, "target": {"enum": ["code"]}},
            "required": ["text"],
        },
    ]
}


def test_files_texts_and_rows_come_in_order(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "t.csv").write_text("bmi,bp\n25,90.5\nx,1\n")
    (tmp_path / "x.csv").write_text("id,text\n1,hello\n")
    files = [tmp_path / name for name in ("a.png", "t.csv", "x.csv")]
    inputs = gather(files, ["It rains.", "see photo.png"], ["bmi=25, bp=1e2", "25,90"])
    inputs = fitted(inputs, {})  # a model without a description
    assert [one.value for one in inputs] == [
        tmp_path / "a.png",
        {"bmi": 25, "bp": 90.5},
        {"bmi": "x", "bp": 1},
        "hello",
        "It rains.",
        "see photo.png",  # a text, not that file
        {"bmi": 25, "bp": 100.0},
        [25, 90],
    ]
    assert inputs[2].fact == {"file": str(files[1]), "row": 2, "columns": {"bmi": "x", "bp": 1}}
    assert inputs[1].shown == "bmi=25, bp=90.5"
    assert inputs[3].fact == {"file": str(files[2]), "row": 1, "text": "hello"}


TRAINING_CSV = "id,s5,bmi,bp,progression\n7,4.5,25,90,150\n"


@pytest.mark.parametrize(
    ("name", "content", "schema", "value"),
    [
        ("t.csv", TRAINING_CSV, ROW, {"bmi": 25, "bp": 90}),
        ("t.CSV", "\ufeff" + TRAINING_CSV, ROW, {"bmi": 25, "bp": 90}),
        ("t.jsonl", '{"bmi": 25, "bp": 90.5, "progression": null}', ROW, {"bmi": 25, "bp": 90.5}),
        ("t.csv", "text,label\na = 1,code\n", TEXT, {"text": "a = 1"}),
        ("t.csv", "text,label\na = 1,code\n", {}, "a = 1"),
        ("t.csv", "bmi,bp\n2_5,٢٥\n", ROW, {"bmi": "2_5", "bp": "٢٥"}),
        ("t.csv", f"bmi,bp\n{'9' * 5002},{'0' * 5002}\n", ROW, {"bmi": "9" * 5002, "bp": 0}),
        ("t.csv", "bmi,bp\nnan,\n", ROW, {"bmi": "nan", "bp": ""}),
    ],
)
def test_a_model_receives_the_columns_that_it_takes(name, content, schema, value, tmp_path):
    (tmp_path / name).write_text(content, "utf-8")
    (one,) = fitted(gather([tmp_path / name], [], []), schema)
    assert one.value == value
    if "text" in content:
        assert (one.shown, one.fact["text"]) == ("a = 1", "a = 1")


def test_a_table_without_a_required_column_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("bmi,s5\n1,2\n")
    inputs = gather([tmp_path / "t.csv"], [], [])
    with pytest.raises(UsageError, match=r"columns bmi, s5; this model needs bmi \+ bp"):
        fitted(inputs, ROW)
    with pytest.raises(UsageError, match=r"bmi, s5, but this model takes no input by column"):
        fitted(inputs, {"anyOf": [{"type": "string"}, {"type": "array"}]})


@pytest.mark.parametrize("row", ["bmi=1,2", "bmi=1,bmi=2", "", "1,,2"])
def test_an_invalid_row_is_refused(row):
    with pytest.raises(UsageError, match=r"expected NAME=NUMBER"):
        gather([], [], [row])


def test_no_input_is_an_error():
    with pytest.raises(UsageError, match=r"--text TEXT or --row"):
        gather([], [], [])


class Described:
    """A client that has only `describe`."""

    def __init__(self, description):
        self.description = description

    def describe(self, model, version, *, customized, timeout):
        if isinstance(self.description, Exception):
            raise self.description
        return SimpleNamespace(customized=self.description)


def test_a_true_label_that_was_never_predicted_counts():
    one = prediction(
        '{"label": "1", "probability": 0.9, "top": [{"label": "1", "probability": 0.9}]}'
    )
    labels = [str(number) for number in range(10)]
    assert predict.known_labels(Described({"labels": labels}), "m", None, [one]) == set(labels)
    refused = RequestRefused("no management here", status=403)
    for silent in (Described(None), Described({"pid": 1}), Described(refused)):
        assert predict.known_labels(silent, "m", None, [one]) == {"1"}
    number = prediction('{"prediction": 1.5}')
    assert predict.known_labels(Described(AssertionError()), "m", None, [number]) == ()


def test_a_number_is_printed_with_its_units(printed):
    inputs = gather([], [], ["bmi=25", "bmi=x"])
    error = RequestRefused("422: field 'bmi' must be a number", status=422)
    predict._print(
        inputs, [None, None], [prediction('{"prediction": 151.25, "units": "mm"}'), error]
    )
    assert "151.25 mm" in printed()
    assert "must be a number" in printed()
    assert "actual" not in printed()


def test_a_generated_text_is_printed_after_its_prompt(printed, tmp_path):
    (tmp_path / "p.json").write_text('{"prompt": "Once upon", "seed": 1}')
    inputs = gather([tmp_path / "p.json"], ["The [red] fox"], [])
    text = '{"text": " a time", "finish_reason": "length", "completion_tokens": 2}'
    predict._print(inputs, [None, None], [prediction(text), prediction(text)])
    assert "Once upon a time" in printed()
    assert "The [red] fox a time" in printed()  # not interpreted as markup
    assert "(2 tokens, length)" in printed()


def test_classes_are_printed_next_to_true_labels(printed):
    inputs = gather([], ["a = 1", "[b]It[/b] rains " * 20], [])
    answers = [
        prediction('{"label": "code", "probability": 0.9, "top": []}'),
        prediction('{"label": null, "probability": 0.3, "top": []}'),
    ]
    predict._print(inputs, ["code", "prose"], answers)
    lines = printed().splitlines()
    assert lines[0].split() == ["input", "actual", "predicted", "probability"]
    assert lines[1].split() == ["a", "=", "1", "code", "code", "90.0%"]
    assert "(undecided)" in lines[2]
    assert "[b]It[/b]" in lines[2]
    assert "1 of 2 correct (50.0%)" in printed()
