"""The guide with one example per task: each request gets a response of the format shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pretrained_models import ask

pytestmark = pytest.mark.heavy

PAGE = (Path(__file__).parents[2] / "docs/guides/pretrained-tasks.md").read_text("utf-8")
SECTION = re.compile(r"^## (.*?)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```json\n(.*?)^```", re.DOTALL | re.MULTILINE)
SECTIONS = {title: BLOCK.findall(text) for title, text in SECTION.findall(PAGE)}
MODELS = {
    "Text classification": "text-classification",
    "Text classification with several labels": "several labels",
    "Regression": "regression",
    "Token classification": "token-classification",
    "Zero-shot classification": "zero-shot-classification",
    "Filling masks": "fill-mask",
    "Question answering": "question-answering",
    "Feature extraction": "feature-extraction",
    "Sentence embeddings": "feature-extraction",
    "Summarization": "summarization",
    "Translation": "text2text-generation",
    "Translation between several languages": "several languages",
    "Chat": "text-generation",
    "Image classification": "image-classification",
    "Image features": "image-feature-extraction",
}
MORE = "..."  # the rest of a list


def test_the_page_has_an_example_of_each_task():
    assert list(SECTIONS) == list(MODELS)


@pytest.mark.parametrize("title", MODELS)
def test_the_response_has_the_format_of_the_page(models, title):
    request, shown = SECTIONS[title]
    _, loaded = models(MODELS[title])
    (response,) = ask(loaded, json.loads(request))
    assert_format(response, json.loads(shown.replace(MORE, f'"{MORE}"')))


def assert_format(value, shown, where="response"):
    """Check the names and their order, the types, and the length of a list without `...`."""
    assert isinstance(value, type(shown)), (where, value)
    if isinstance(shown, dict):
        assert list(value) == list(shown), where
        for name in shown:
            assert_format(value[name], shown[name], f"{where}.{name}")
    elif isinstance(shown, list):
        is_cut = shown[-1] == MORE
        fits = len(value) >= len(shown) - 1 if is_cut else len(value) == len(shown)
        assert fits, where
        for index, each in enumerate(value):
            assert_format(each, shown[min(index, len(shown) - 1 - is_cut)], f"{where}[{index}]")
