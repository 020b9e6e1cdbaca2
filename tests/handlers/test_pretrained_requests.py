"""Requests for pretrained models: the same prediction in any batch, long texts, and mistakes."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrained_folders import POSITIONS, tokenizer
from pretrained_models import (
    BAD,
    LONG,
    PARAMETERS,
    REQUESTS,
    ask,
    assert_same,
    picture,
    pipeline,
    with_fields,
)

from vestal_handlers.text.tokens import TextTokenizer

pytestmark = pytest.mark.heavy

GENERATED = ("summarization", "text2text-generation", "text-generation")  # which takes seconds
HOSTILE = ({"top_k": 0}, {"truncate": "up"}, {"nothing": 1})


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in GENERATED)) for n in REQUESTS],
)
def test_a_prediction_is_the_same_alone_and_in_any_batch(models, name):
    """Requests with their own parameters, or with a mistake, in random batches."""
    _, loaded = models(name)
    choices: list[object] = [*REQUESTS[name], *BAD]
    fields = [*PARAMETERS.get(name, []), *HOSTILE]
    choices += [with_fields(REQUESTS[name][n % 3], each) for n, each in enumerate(fields)]
    alone = [ask(loaded, each)[0] for each in choices]
    random = Random(0)
    for _ in range(8):
        chosen = random.choices(range(len(choices)), k=random.randint(2, 10))
        together = ask(loaded, *[choices[index] for index in chosen])
        for index, response in zip(chosen, together, strict=True):
            assert_same(alone[index], response)


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
