"""Pretrained classifiers of texts, tokens and images predict what transformers predicts."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from pretrained_folders import TEXTS
from pretrained_models import LONG, ask, picture, pipeline

pytestmark = pytest.mark.heavy


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
    folder, loaded = models("token-classification", aggregation_strategy=aggregation)
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
    request = {"text": TEXTS[0], "candidate_labels": labels, "multi_label": multi_label}
    (ours,) = ask(loaded, request)
    theirs = expected(TEXTS[0], labels, multi_label=multi_label)
    assert [each["label"] for each in ours["top"]] == theirs["labels"]
    assert [each["probability"] for each in ours["top"]] == pytest.approx(
        theirs["scores"], abs=1e-5
    )


def test_zero_shot_labels_can_be_fixed(models):
    _, loaded = models("zero-shot-classification", candidate_labels=["animals", "cities"])
    ours, unknown = ask(loaded, TEXTS[0], {"text": TEXTS[0], "candidate_labels": ["citys"]})
    assert {each["label"] for each in ours["top"]} == {"animals", "cities"}
    assert unknown[0] == 422
    assert (
        "must be one of animals, cities, got a string \"citys\" (did you mean 'cities'?)"
        in (unknown[1])
    )


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
