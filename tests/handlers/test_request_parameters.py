"""Parameters of requests for pretrained models: their effect, their limits, and other forms."""

from __future__ import annotations

import base64
import math

import pytest
import transformers
from pretrained_folders import TEXTS
from pretrained_models import PARAMETERS, REQUESTS, ask, assert_same, picture, pipeline, with_fields

from vestal.inprocess import Input

pytestmark = pytest.mark.heavy


def test_top_k_is_the_number_of_predictions(models):
    _, loaded = models("text-classification", top_k=1)
    one, two, all_ = ask(loaded, TEXTS[0], *[{"text": TEXTS[0], "top_k": k} for k in (2, 10**30)])
    assert [len(each["top"]) for each in (one, two, all_)] == [1, 2, 3]
    assert one["top"] == all_["top"][:1]
    _, loaded = models("image-classification")
    (ours,) = ask(loaded, with_fields(picture(0), {"top_k": 2}))
    assert len(ours["top"]) == 2
    _, loaded = models("fill-mask")
    (ours,) = ask(loaded, {"text": "A [MASK] fox [MASK].", "top_k": 3})
    assert [len(each["top"]) for each in ours["masks"]] == [3, 3]


def test_no_answer_is_one_of_the_answers(models):
    _, loaded = models("question-answering", no_answer=True, top_k=100)
    (ours,) = ask(loaded, {"question": TEXTS[2], "context": "Berlin, London"})
    assert [each["answer"] for each in ours["top"]].count(None) == 1


@pytest.mark.parametrize("strategy", ["none", "first", "average", "max"])
def test_aggregation_of_a_request_equals_transformers(models, strategy):
    folder, loaded = models("token-classification")
    expected = pipeline("token-classification", folder, aggregation_strategy=strategy)
    (ours,) = ask(loaded, {"text": TEXTS[1], "aggregation_strategy": strategy})
    pairs = [(each["start"], each["end"]) for each in expected(TEXTS[1])]
    assert [(each["start"], each["end"]) for each in ours["entities"]] == pairs


def test_the_hypothesis_of_a_request_equals_transformers(models):
    folder, loaded = models("zero-shot-classification")
    labels, template = ["animals", "cities"], "What does the {} jump over?"
    fields = {"candidate_labels": labels, "hypothesis_template": template}
    (ours,) = ask(loaded, {"text": TEXTS[0], **fields})
    theirs = pipeline("zero-shot-classification", folder)(TEXTS[0], **fields)
    assert [each["label"] for each in ours["top"]] == theirs["labels"]
    values = [each["probability"] for each in ours["top"]]
    assert values == pytest.approx(theirs["scores"], abs=1e-5)


def test_an_embedding_is_normalized_for_a_request(models):
    _, loaded = models("feature-extraction")
    plain, normalized = ask(loaded, *[{"text": TEXTS[0], "normalize": n} for n in (False, True)])
    length = math.hypot(*plain["embedding"])
    assert length != pytest.approx(1, abs=0.01)
    assert [each * length for each in normalized["embedding"]] == pytest.approx(plain["embedding"])


@pytest.mark.parametrize("name", ["summarization", "text2text-generation"])
@pytest.mark.parametrize(
    "fields",
    [
        {"num_beams": 4, "length_penalty": 2.0},
        {"num_beams": 2, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 9, "repetition_penalty": 1.5},
    ],
)
def test_beams_and_penalties_equal_transformers(models, name, fields):
    folder, loaded = models(name)
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    module = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    inputs = fast(TEXTS[1], return_tensors="pt", return_token_type_ids=False)
    (tokens,) = module.generate(**inputs, **fields, do_sample=False, max_new_tokens=9)
    (ours,) = ask(loaded, {"text": TEXTS[1], **fields, "max_new_tokens": 9})
    assert ours["text"] == fast.decode(tokens, skip_special_tokens=True)


WRONG = [
    ("text-classification", {"top_k": 0}, "'top_k' must be at least 1, got 0"),
    ("text-classification", {"top_k": 1.5}, "'top_k' must be an integer, got 1.5"),
    ("text-classification", {"topk": 1}, "did you mean 'top_k'?"),
    ("image-classification", {"top_k": -1}, "'top_k' must be at least 1"),
    ("fill-mask", {"top_k": 10**9}, "'top_k' must be at most 100"),
    ("question-answering", {"top_k": 101}, "'top_k' must be at most 100"),
    ("token-classification", {"aggregation_strategy": "mean"}, "must be one of none, simple"),
    ("zero-shot-classification", {"multi_label": 1}, "'multi_label' must be true or false"),
    ("zero-shot-classification", {"hypothesis_template": "x"}, "needs {} once"),
    ("zero-shot-classification", {"hypothesis_template": "{}" * 9}, "needs {} once"),
    ("zero-shot-classification", {"candidate_labels": []}, "must have at least 1 item, got 0"),
    ("zero-shot-classification", {"candidate_labels": ["a"] * 51}, "must have at most 50 items"),
    ("feature-extraction", {"normalize": "yes"}, "'normalize' must be true or false"),
    ("summarization", {"num_beams": 9}, "'num_beams' must be at most 8"),
    ("summarization", {"max_new_tokens": 10**6}, "'max_new_tokens' must be at most 63"),
    ("summarization", {"min_new_tokens": 9}, "'min_new_tokens' is 9, above max_new_tokens, 8"),
    ("summarization", {"length_penalty": 1.0}, "'length_penalty' has no effect without beams"),
    ("summarization", {"length_penalty": 1e308, "num_beams": 2}, "must be at most 10"),
    ("summarization", {"repetition_penalty": 0}, "'repetition_penalty' must be at least 0.1"),
    ("summarization", {"no_repeat_ngram_size": -1}, "must be at least 0"),
]


@pytest.mark.parametrize(("name", "fields", "message"), WRONG)
def test_a_parameter_beyond_its_limits_is_an_error(models, name, fields, message):
    _, loaded = models(name)
    payload = REQUESTS[name][0]
    good, (status, text) = ask(loaded, payload, with_fields(payload, fields))
    assert isinstance(good, dict)
    assert status == 422
    assert message in text


def test_labels_count_as_characters(models):
    _, loaded = models("zero-shot-classification", max_chars=100)
    (refused,) = ask(loaded, {"text": "a", "candidate_labels": ["b" * 60, "c" * 60]})
    assert refused == (413, "the input has 121 characters, at most 100 (handler.max_chars)")


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_form_of_the_inference_api_is_read(models, name):
    _, loaded = models(name)
    for fields in PARAMETERS[name]:
        usual = with_fields(REQUESTS[name][0], fields)
        names = [n for n in usual if n in ("text", "prompt", "data", "question", "context")]
        inputs = {n: usual[n] for n in names}
        parameters = {n: usual[n] for n in usual if n not in names}
        single = inputs[names[0]] if len(names) == 1 else inputs
        api = {"inputs": single, "parameters": parameters}
        first, second, several = ask(loaded, usual, api, {**api, "inputs": [single, single]})
        assert_same(first, second)
        assert_same([first, first], several["predictions"])


def test_mistakes_in_the_form_of_the_inference_api_get_a_sentence(models):
    _, loaded = models("text-classification")
    responses = ask(
        loaded,
        {"inputs": "a", "parameters": 5},
        {"inputs": "a", "parameters": {"top_k": 0}},
        {"inputs": "a", "parameters": {"text": "b"}},
        {"inputs": 5},
        {"inputs": "a", "options": {}},
    )
    assert {status for status, _ in responses} == {422}
    messages = [message for _, message in responses]
    assert messages[0] == "field 'parameters' must be an object, got 5"
    assert messages[1] == "field 'top_k' must be at least 1, got 0"
    assert messages[2].startswith("field 'parameters.text' is unknown")
    assert messages[3] == "field 'text' must be a string, got 5"
    assert messages[4].startswith("field 'options' is unknown")
    (several,) = ask(loaded, {"inputs": ["a", 5], "parameters": {"top_k": 1}})
    good, bad = several["predictions"]
    assert len(good["top"]) == 1
    assert bad["code"] == 422


def test_the_fields_of_a_form_are_parsed(models):
    _, loaded = models("text-classification")
    (response,) = loaded.predict([Input.form({"text": TEXTS[0], "top_k": "2"})])
    assert len(response.json()["top"]) == 2
    _, loaded = models("image-classification")
    data = base64.b64encode(picture(0)).decode()
    (response,) = loaded.predict([Input.form({"data": data, "top_k": "2"})])
    assert len(response.json()["top"]) == 2


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_schema_lists_the_parameters(models, name):
    _, loaded = models(name)
    schema = loaded.describe()["input"]
    fields = {n for each in schema["anyOf"] for n in each.get("properties", {})}
    assert {n for each in PARAMETERS[name] for n in each} <= fields
