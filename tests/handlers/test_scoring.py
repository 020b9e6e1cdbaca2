"""The log-probability of each token equals that of a plain forward pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_gpt2 import CONTEXT, PoisonedModel, prompts_of, tiny_model

from vestal_handlers.errors import RequestFailure
from vestal_handlers.text import scoring
from vestal_handlers.text.scoring import score


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("at_once", [1, 8, 512])
@pytest.mark.parametrize("max_cells", [1, 100, 16_384])
def test_scores_equal_those_of_a_plain_forward_pass(model, monkeypatch, at_once, max_cells):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", at_once)
    prompts = prompts_of([1, 2, 30, CONTEXT, 7])
    for prompt, ours in zip(prompts, score(model, prompts, max_cells), strict=True):
        ids = torch.tensor([prompt])
        logprobs = torch.log_softmax(model(input_ids=ids).logits[0, :-1], dim=-1)
        expected = logprobs.gather(-1, ids[0, 1:, None])[:, 0]
        np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)


def test_prompts_that_are_not_scored_at_the_deadline_fail(model, monkeypatch):
    """The deadline passes after two forward passes: only the short group is finished."""
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 8)
    ticks = iter(range(100))
    monkeypatch.setattr(scoring.time, "monotonic", lambda: next(ticks))
    short, long = score(model, prompts_of([6, 40]), max_cells=50, deadline=1.5)
    assert len(short) == 5
    assert isinstance(long, RequestFailure)
    assert "the time limit of this batch passed" in long.message


def test_a_score_that_is_not_finite_fails_alone(model):
    class Infinite(PoisonedModel):
        def forward(self, input_ids, **options):
            output = self.model(input_ids=input_ids, **options)
            output.logits[input_ids == self.poison] = math.inf
            return output

    scores = score(Infinite(model, 299), [[1, 2, 3], [1, 299, 3], [4, 299]])
    assert isinstance(scores[1], RequestFailure)
    assert [len(scores[0]), len(scores[2])] == [2, 1]
