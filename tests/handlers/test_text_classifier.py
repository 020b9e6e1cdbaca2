"""The text classifier: predictions and explanations for texts and vectors."""

from __future__ import annotations

import json

import pytest
import torch
from folders import as_json, ask, handler_of, write_archive
from text_models import CODE, LABELS, PROSE, matches, plain, simplenet, write_text_classifier
from torch import nn

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.text.hashing import TextTransform


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with LoadedArchive(write_text_classifier(tmp_path_factory.mktemp("simplenet"))) as loaded:
        yield loaded


@pytest.mark.parametrize("text", [CODE, PROSE, "🦊 🦊!", "これは本です", "x", "a\tb\n\n"])
def test_a_prediction_equals_that_of_a_plain_script(archive, text):
    assert matches(ask(archive, as_json(text)).json(), text)


@pytest.mark.parametrize(
    "sent",
    [
        as_json(PROSE),
        as_json({"text": PROSE}),
        as_json({"data": PROSE}),
        as_json({"data": {"text": PROSE}}),
        Input.raw(PROSE.encode(), "text/plain"),
        Input.raw(PROSE.encode()),
        Input.form({"text": PROSE}),
        Input.form(any_name=(PROSE.encode(), "text/plain")),
        as_json({"vector": TextTransform()(PROSE).tolist()}),
        as_json(TextTransform()(PROSE).tolist()),
        as_json({"data": TextTransform()(PROSE).tolist()}),
    ],
)
def test_every_way_to_send_a_text_gives_the_same_prediction(archive, sent):
    answer = ask(archive, sent)
    assert answer.status == 200, answer.body
    assert matches(answer.json(), PROSE)


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        (as_json({"instances": [PROSE, CODE]}), 2),
        (as_json([{"text": PROSE}, {"text": CODE}]), 2),
        (as_json([TextTransform()(text).tolist() for text in (PROSE, CODE)]), 2),
    ],
)
def test_each_of_several_texts_gets_a_prediction(archive, sent, count):
    first, last = ask(archive, sent).json()["predictions"]
    assert matches(first, PROSE)
    assert matches(last, CODE)


def test_a_bad_request_does_not_affect_its_neighbours(archive):
    answers = archive.predict([as_json(CODE), as_json({"txt": CODE}), as_json(PROSE)])
    assert [answer.status for answer in answers] == [200, 422, 200]
    assert matches(answers[0].json(), CODE)
    assert matches(answers[2].json(), PROSE)


VECTOR = [0.0] * 2048


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (Input.raw(b"caf\xe9", "text/plain"), 400, "the text is not UTF-8 (byte 3); send it"),
        (Input.raw(b"\xff\xfe"), 400, "the text is not UTF-8 (byte 0); send it"),
        (Input.raw(b'"\\ud800"', "application/json"), 400, ""),
        (as_json("x" * 5001), 413, "a text of 5,001 characters, at most 5,000 (handler.max_chars)"),
        (as_json({"text": "x" * 5001}), 413, "a text of 5,001 characters"),
        (Input.raw(b"x" * 5001), 413, "a text of 5,001 characters"),
        (as_json(""), 422, "the input must have at least 1 character, got 0"),
        (Input.raw(b""), 422, "the input must have at least 1 character, got 0"),
        (as_json(" \n\t "), 422, "the text has no words, only whitespace"),
        (as_json({"text": 5}), 422, "field 'text' must be a string, got 5"),
        (
            as_json({"txt": "x"}),
            422,
            "field 'txt' is unknown: did you mean 'text'? the fields are text, top_k, target",
        ),
        (as_json(5), 422, "the input must be a string or a list or an object, got 5"),
        (as_json(VECTOR[:-1]), 422, "the input must have exactly 2048 items, got 2047"),
        (as_json({"vector": [1]}), 422, "field 'vector' must have exactly 2048 items, got 1"),
        (as_json([*VECTOR[:-1], "1"]), 422, "item [2047] of the input must be a number"),
        (
            Input.raw(json.dumps([*VECTOR[:-1], float("nan")]).encode(), "application/json"),
            422,
            "item [2047] of the input must be a finite number, got NaN",
        ),
        (
            as_json({"vector": [True, *VECTOR[1:]]}),
            422,
            "field 'vector[0]' must be a number, got true",
        ),
        (as_json(["a", "text"]), 422, "the input must have exactly 2048 items, got 2"),
        (
            as_json({"text": "x", "target": "poem"}),
            422,
            "field 'target' must be one of code, prose",
        ),
    ],
)
def test_an_invalid_input_is_refused_with_the_reason(archive, sent, status, message):
    answer = ask(archive, sent)
    assert answer.status == status, answer.body
    assert answer.json()["message"].startswith(message)


def test_the_label_is_null_below_the_threshold(tmp_path):
    options = {"threshold": 1.0, "top_k": 1}
    write_archive(tmp_path, "text_classifier", simplenet(), options=options, labels=LABELS)
    with LoadedArchive(tmp_path) as loaded:
        answer = ask(loaded, as_json("hello")).json()
    assert answer["label"] is None
    assert answer["top"][0]["label"] in LABELS


def test_probabilities_of_the_model_are_not_changed(tmp_path):
    model = nn.Sequential(simplenet(), nn.Softmax(dim=1))
    options = {"outputs": "probabilities"}
    write_archive(tmp_path, "text_classifier", model, options=options, labels=LABELS)
    with LoadedArchive(tmp_path) as loaded:
        assert matches(ask(loaded, as_json(PROSE)).json(), PROSE)


def test_the_example_of_describe_is_predicted(archive):
    jsonschema = pytest.importorskip("jsonschema")
    described = ask(archive, Input({}, {"describe": "True"})).json()
    assert described["labels"] == LABELS
    assert described["limits"]["max_chars"] == 5000
    for schema in (described["input"], described["output"]):
        jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(described["example"], described["input"])
    answer = ask(archive, as_json(described["example"]))
    jsonschema.validate(answer.json(), described["output"])


def test_the_attributions_of_words_add_up(archive):
    answer = ask(archive, as_json({"text": PROSE, "target": "prose"}, explain="True")).json()
    assert (answer["target"], answer["method"]) == ("prose", "integrated_gradients")
    assert len(answer["attributions"]) == 5
    words = {one["word"]: one for one in answer["attributions"]}
    assert all(word in PROSE for word in words)
    sizes = [abs(one["attribution"]) for one in answer["attributions"]]
    assert sizes == sorted(sizes, reverse=True)
    total = sum(one["attribution"] for one in answer["attributions"]) + answer["rest"]
    gained = answer["target_probability"] - answer["baseline_probability"]
    assert gained == pytest.approx(
        float(plain(TextTransform()(PROSE))[1] - plain(torch.zeros(2048))[1]), abs=1e-5
    )
    assert total == pytest.approx(gained, abs=5e-3)


def test_the_attributions_of_a_vector_are_by_position(archive):
    vector = TextTransform()(CODE).tolist()
    answer = ask(archive, as_json({"vector": vector}, explain="True")).json()
    assert answer["target"] == answer["label"]
    assert len(answer["attributions"]) == 2048
    assert all(a == 0 for a, v in zip(answer["attributions"], vector, strict=True) if v == 0)
    gained = answer["target_probability"] - answer["baseline_probability"]
    assert sum(answer["attributions"]) == pytest.approx(gained, abs=5e-3)


def test_predictions_and_explanations_share_a_batch(archive):
    answers = archive.predict(
        [as_json(CODE), as_json(CODE, explain="True"), as_json("", explain="True"), as_json(PROSE)]
    )
    assert [answer.status for answer in answers] == [200, 200, 422, 200]
    assert matches(answers[0].json(), CODE)
    assert matches(answers[1].json(), CODE)
    assert matches(answers[3].json(), PROSE)
    assert "attributions" in answers[1].json()


def test_serving_and_training_hash_a_text_to_the_same_vector(archive):
    vector = handler_of(archive).transform(CODE)
    assert torch.equal(vector, TextTransform()(CODE))
