"""Tasks on folders of transformers: predictions equal those of its own code, in any batch."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pretrained_folders import FOLDERS, POSITIONS, TEXTS, tokenizer

from vestal.archive.runnable import open_model
from vestal.inprocess import Input
from vestal.project import Project
from vestal.scaffold import create
from vestal_handlers.text.tokens import TextTokenizer

pytestmark = pytest.mark.heavy
LONG = " ".join(TEXTS * 3)
BAD = (b"\xff\xfe", b"[1, 2]", b'{"nothing": 1}', b"")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return Project(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def models(project):
    """Load each model once: a function of its name and options of its handler."""
    opened, contexts = {}, []

    def load(name, **options):
        key = name, json.dumps(options, sort_keys=True)
        if key not in opened:
            folder = project.root / "folders" / name.replace(" ", "-")
            if not folder.exists():
                FOLDERS[name](folder)
            model = f"model{len(opened)}"
            create(project, model, name if name in TASKS else "transformers", weights=folder)
            config = project.models / model / "model-config.yaml"
            config.write_text(f"{config.read_text()}handler: {json.dumps(options)}\n")
            context = open_model(project, model, weights=folder, batch_size=2)
            contexts.append(context)
            opened[key] = folder, context.__enter__()
        return opened[key]

    yield load
    for context in contexts:
        context.__exit__(None, None, None)


TASKS = ("zero-shot-classification", "summarization")  # which no architecture stands for


def ask(loaded, *payloads):
    return [
        response.json() if response.status == 200 else (response.status, response.json()["message"])
        for response in loaded.predict([body(each) for each in payloads])
    ]


def body(payload):
    if isinstance(payload, bytes):
        return Input.raw(payload, "application/octet-stream")
    return Input.raw(json.dumps(payload).encode(), "application/json")


def picture(seed, width=40, height=50):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pipeline(task, folder, **options):
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


def test_text_classification_equals_transformers(models):
    folder, loaded = models("text-classification")
    expected = pipeline("text-classification", folder)
    for text, ours in zip(TEXTS, ask(loaded, *TEXTS), strict=True):
        top = expected(text, top_k=None)
        assert [each["label"] for each in ours["top"]] == [each["label"] for each in top]
        assert [e["probability"] for e in ours["top"]] == pytest.approx(
            [each["score"] for each in top], abs=1e-5
        )
        assert ours["label"] == top[0]["label"]
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    (ours,) = ask(loaded, pair)
    (top,) = [each for each in expected(pair, top_k=None) if each["label"] == ours["label"]]
    assert ours["probability"] == pytest.approx(top["score"], abs=1e-5)


def test_several_labels_have_probabilities_of_their_own(models):
    folder, loaded = models("several labels", top_k=4, threshold=0.4)
    expected = pipeline("text-classification", folder)
    for text, ours in zip(TEXTS, ask(loaded, *TEXTS), strict=True):
        top = expected(text, top_k=None)
        assert ours["labels"] == [each["label"] for each in top if each["score"] >= 0.4]
        assert [each["label"] for each in ours["top"]] == [each["label"] for each in top]
        assert ours["top"][0]["probability"] == pytest.approx(top[0]["score"], abs=1e-5)


def test_a_regression_predicts_a_number(models):
    folder, loaded = models("regression")
    (expected,) = pipeline("text-classification", folder, function_to_apply="none")(TEXTS[0])
    (ours,) = ask(loaded, TEXTS[0])
    assert ours == {"prediction": pytest.approx(expected["score"], abs=1e-5)}


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
def test_token_classification_equals_transformers(models, aggregation):
    folder, loaded = models("token-classification", aggregation=aggregation)
    expected = pipeline("token-classification", folder, aggregation_strategy=aggregation)
    found = 0
    for text, ours in zip(TEXTS, ask(loaded, *TEXTS), strict=True):
        for one, entity in zip(expected(text), ours["entities"], strict=True):
            found += 1
            assert entity["label"] == one.get("entity_group", one.get("entity"))
            assert (entity["start"], entity["end"]) == (one["start"], one["end"])
            assert entity["probability"] == pytest.approx(float(one["score"]), abs=1e-5)
            assert entity["text"] == text[one["start"] : one["end"]]
    assert found > 3


def test_a_long_text_is_classified_in_windows(models):
    folder, loaded = models("token-classification", stride=8)
    expected = pipeline("token-classification", folder, aggregation_strategy="simple", stride=8)
    (ours,) = ask(loaded, LONG)
    pairs = [(one["entity_group"], one["start"], one["end"]) for one in expected(LONG)]
    assert [(e["label"], e["start"], e["end"]) for e in ours["entities"]] == pairs


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification_equals_transformers(models, multi_label):
    folder, loaded = models("zero-shot-classification")
    expected = pipeline("zero-shot-classification", folder)
    labels = ["animals", "cities", "a machine"]
    request = {"text": TEXTS[0], "labels": labels, "multi_label": multi_label}
    (ours,) = ask(loaded, request)
    theirs = expected(TEXTS[0], labels, multi_label=multi_label)
    assert [each["label"] for each in ours["top"]] == theirs["labels"]
    assert [each["probability"] for each in ours["top"]] == pytest.approx(
        theirs["scores"], abs=1e-5
    )


def test_zero_shot_labels_can_be_fixed(models):
    _, loaded = models("zero-shot-classification", labels=["animals", "cities"])
    ours, unknown = ask(loaded, TEXTS[0], {"text": TEXTS[0], "labels": ["citys"]})
    assert {each["label"] for each in ours["top"]} == {"animals", "cities"}
    assert unknown[0] == 422
    assert (
        "must be one of animals, cities, got a string \"citys\" (did you mean 'cities'?)"
        in (unknown[1])
    )


def test_filled_masks_equal_transformers(models):
    folder, loaded = models("fill-mask")
    expected = pipeline("fill-mask", folder)
    one, two = "The quick [MASK] fox.", "The [MASK] brown [MASK] jumps."
    ours = ask(loaded, one, two, TEXTS[0])
    for theirs, masks in zip([[expected(one)], expected(two)], ours, strict=False):
        for row, mask in zip(theirs, masks["masks"], strict=True):
            assert [e["word"] for e in mask["top"]] == [e["token_str"].strip() for e in row]
            assert [e["probability"] for e in mask["top"]] == pytest.approx(
                [each["score"] for each in row], abs=1e-5
            )
    assert ours[2] == (
        422,
        "the text has 0 masks, expected 1 to 16: write [MASK] in the place of a word",
    )


def test_an_answer_is_the_most_probable_span(models):
    folder, loaded = models("question-answering")
    question, context = TEXTS[2], TEXTS[1]
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    module = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    inputs = fast(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = module(**inputs)
    places = [n for n, sequence in enumerate(inputs.sequence_ids(0)) if sequence == 1]
    first = output.start_logits[0, places].softmax(0)
    last = output.end_logits[0, places].softmax(0)
    spans = {
        (float(first[a] * last[b]), a, b)
        for a in range(len(places))
        for b in range(a, len(places))
        if b - a < 30
    }
    probability, a, b = max(spans)
    start, end = offsets[places[a]][0], offsets[places[b]][1]
    (ours,) = ask(loaded, {"question": question, "context": context})
    assert ours["answer"] == context[start:end]
    assert (ours["start"], ours["end"]) == (start, end)
    assert ours["probability"] == pytest.approx(probability, abs=1e-5)


def test_a_long_context_is_searched_in_windows(models):
    _, loaded = models("question-answering", stride=16)
    (ours,) = ask(loaded, {"question": TEXTS[2], "context": LONG})
    assert ours["answer"] == LONG[ours["start"] : ours["end"]]
    (refused,) = ask(loaded, {"question": LONG, "context": TEXTS[0]})
    assert refused[0] == 413
    assert "shorten what stands beside it" in refused[1]
    for context in ("", " \n"):
        (empty,) = ask(loaded, {"question": TEXTS[2], "context": context})
        assert empty == (422, "field 'context' has no words")


def test_embeddings_are_means_of_the_last_layer(models):
    folder, loaded = models("feature-extraction")
    expected = pipeline("feature-extraction", folder)
    for text, ours in zip(TEXTS, ask(loaded, *TEXTS), strict=True):
        mean = np.mean(expected(text)[0], axis=0)
        assert ours["embedding"] == pytest.approx(mean.tolist(), abs=1e-5)
    _, unpooled = models("feature-extraction", pooling="none")
    (ours,) = ask(unpooled, TEXTS[0])
    assert np.allclose(ours["embedding"], expected(TEXTS[0])[0], atol=1e-5)
    _, normalized = models("feature-extraction", pooling="first", normalized=True)
    (ours,) = ask(normalized, TEXTS[0])
    assert math.hypot(*ours["embedding"]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["summarization", "text2text-generation"])
def test_generated_texts_equal_transformers(models, name):
    folder, loaded = models(name)
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    module = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    for text, ours in zip(
        TEXTS, ask(loaded, *[{"text": t, "max_new_tokens": 9} for t in TEXTS]), strict=True
    ):
        inputs = fast(text, return_tensors="pt", return_token_type_ids=False)
        (tokens,) = module.generate(**inputs, do_sample=False, max_new_tokens=9)
        assert ours["text"] == fast.decode(tokens, skip_special_tokens=True)
        assert ours["tokens"] == inputs["input_ids"].shape[1]
        assert ours["finish_reason"] in ("eos", "length")


def test_image_classification_equals_transformers(models):
    folder, loaded = models("image-classification")
    expected = pipeline("image-classification", folder)
    pictures = [picture(seed) for seed in range(3)]
    for data, ours in zip(pictures, ask(loaded, *pictures), strict=True):
        top = expected(Image.open(io.BytesIO(data)))
        assert [each["label"] for each in ours["top"]] == [each["label"] for each in top]
        assert [e["probability"] for e in ours["top"]] == pytest.approx(
            [each["score"] for each in top], abs=1e-5
        )


def test_image_features_equal_transformers(models):
    folder, loaded = models("image-feature-extraction")
    expected = pipeline("image-feature-extraction", folder, pool=True)
    (ours,) = ask(loaded, picture(0))
    theirs = expected(Image.open(io.BytesIO(picture(0))))[0]
    assert ours["embedding"] == pytest.approx(theirs, abs=1e-5)


REQUESTS = {
    "text-classification": TEXTS,
    "several labels": TEXTS,
    "regression": TEXTS,
    "token-classification": TEXTS,
    "zero-shot-classification": [{"text": t, "labels": ["a", "city", "fox"]} for t in TEXTS],
    "fill-mask": ["The [MASK] fox", "A [MASK] [MASK] dog of London", "[MASK]"],
    "question-answering": [{"question": TEXTS[2], "context": t} for t in TEXTS],
    "feature-extraction": TEXTS,
    "summarization": [{"text": t, "max_new_tokens": 8} for t in TEXTS],
    "text2text-generation": [{"text": t, "max_new_tokens": 8} for t in TEXTS],
    "image-classification": [picture(seed, 20 + seed, 30) for seed in range(3)],
    "image-feature-extraction": [picture(seed, 20 + seed, 30) for seed in range(3)],
}


GENERATED = ("summarization", "text2text-generation")  # which takes seconds


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in GENERATED else n for n in REQUESTS]
)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_prediction_is_the_same_alone_and_in_any_batch(models, name, data):
    _, loaded = models(name)
    choices = [*REQUESTS[name], *BAD]
    chosen = data.draw(st.lists(st.sampled_from(range(len(choices))), min_size=1, max_size=8))
    together = ask(loaded, *[choices[index] for index in chosen])
    for index, response in zip(chosen, together, strict=True):
        (alone,) = ask(loaded, choices[index])
        assert_same(alone, response)


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-5)
    else:
        assert one == other


def test_a_long_text_is_an_error_or_truncated(models):
    folder, loaded = models("text-classification")
    right, left = ({"text": LONG, "truncate": side} for side in ("right", "left"))
    refused, at_right, at_left = ask(loaded, LONG, right, left)
    count = len(tokenizer()(LONG)["input_ids"])
    assert refused == (
        413,
        f"the text has {count} tokens, at most {POSITIONS} (the model's limit): shorten it, or "
        "send truncate: right (or left) to cut off that end",
    )
    for ours, side in ((at_right, "right"), (at_left, "left")):
        expected = pipeline("text-classification", folder)
        expected.tokenizer.truncation_side = side
        (theirs,) = expected(LONG, truncation=True)
        assert ours["probability"] == pytest.approx(theirs["score"], abs=1e-5)


@given(text=st.text(max_size=80), pair=st.none() | st.text(min_size=1, max_size=40))
def test_tokens_equal_those_of_transformers(text, pair):
    fast = tokenizer()
    encoding = TextTokenizer(fast, 10_000, "", frozenset()).encode(text, pair)
    wanted = ("token_type_ids", "offsets_mapping", "special_tokens_mask")
    theirs = fast(text, pair, **{f"return_{name}": True for name in wanted})
    assert encoding.ids == theirs["input_ids"]
    assert encoding.type_ids == theirs["token_type_ids"]
    assert encoding.offsets == theirs["offset_mapping"]
    assert encoding.special_tokens_mask == theirs["special_tokens_mask"]


def test_wrong_requests_get_a_sentence(models):
    _, loaded = models("text-classification")
    number, field, surrogate, image = ask(loaded, 5, {"txt": "a"}, {"text": "\ud800"}, picture(0))
    assert number == (415, "expected an object with 'text'")
    assert field[0] == 422
    assert "did you mean 'text'?" in field[1]
    assert surrogate[0] == 400
    assert image[0] == 400
