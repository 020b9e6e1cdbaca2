"""Texts of different lengths in one forward pass, padded only where that changes nothing."""

from __future__ import annotations

import pytest
import torch
import transformers
from folders import handler_of
from hypothesis import given
from hypothesis import strategies as st
from pretrained_folders import SIZE
from pretrained_models import REQUESTS, ask, assert_same

from vestal_handlers.text.padding import (
    ENCODERS,
    PASS_COST,
    batches,
    example_rows,
    is_exact,
    padded,
    trimmed,
)

INPUTS = ("input_ids", "attention_mask")
TEXT_TASKS = (
    *("text-classification", "token-classification", "zero-shot-classification"),
    *("fill-mask", "question-answering", "feature-extraction"),
)


@given(st.lists(st.integers(1, 512), max_size=40), st.integers(1, 16))
def test_each_text_is_in_one_batch_with_little_padding(lengths, most):
    found = batches(lengths, most)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) <= most
        sizes = [lengths[place] for place in batch]
        assert max(sizes) * len(sizes) - sum(sizes) <= PASS_COST


def encoder(kind):
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=90, intermediate_size=64, embedding_size=16, **SIZE
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()

    @torch.inference_mode()
    def forward(rows):
        outputs = model(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        states = outputs.last_hidden_state
        return [{"last_hidden_state": row} for row in states]

    return forward, config.pad_token_id


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_padding_is_exact(kind):
    forward, pad_token = encoder(kind)
    names = ("last_hidden_state",)
    assert is_exact(forward, example_rows(INPUTS, 90, 512), pad_token, names)
    rows = [
        {"input_ids": torch.arange(3, 3 + size), "attention_mask": torch.ones(size).long()}
        for size in (1, 2, 7, 20, 60)
    ]
    for row, output in zip(rows, forward(padded(rows, pad_token)), strict=True):
        size = len(row["input_ids"])
        (alone,) = forward([row])
        together = trimmed(output, size, names)["last_hidden_state"]
        assert torch.allclose(alone["last_hidden_state"], together, atol=1e-5)


def test_a_model_that_reads_the_padding_is_found():
    def forward(rows):
        return [{"logits": row["input_ids"].float().mean(0, keepdim=True)} for row in rows]

    def constant(rows):
        return [{"logits": torch.zeros(2)} for row in rows]

    rows = example_rows(INPUTS, 90, 512)
    assert not is_exact(forward, rows, 0, ())
    assert is_exact(constant, rows, 0, ())


@pytest.mark.heavy
@pytest.mark.parametrize("name", TEXT_TASKS)
def test_texts_are_padded_or_not_with_the_same_predictions(models, name):
    (_, on), (_, off) = models(name), models(name, pad=False)
    assert (handler_of(on).pads, handler_of(off).pads) == (True, False)
    passes = []
    forward = handler_of(on).engine.__call__
    handler_of(on).engine = lambda batch: passes.append(len(batch["input_ids"])) or forward(batch)
    try:
        together = ask(on, *REQUESTS[name])
    finally:
        handler_of(on).engine = forward.__self__
    assert max(passes) >= len(REQUESTS[name])  # in one pass, although their lengths differ
    for one, other in zip(together, ask(off, *REQUESTS[name]), strict=True):
        assert_same(one, other)


def test_the_longest_text_limits_a_batch():
    assert batches([], 8) == []
    assert batches([5, 5, 5], 2) == [[0, 1], [2]]
    assert batches([PASS_COST * 2, 1, 2], 8) == [[0], [2, 1]]
