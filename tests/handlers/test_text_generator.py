"""The text generator, on a tiny GPT-2 in an unpacked archive: text, sampling, scores, batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_gpt2 import CONTEXT, prediction, send
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from vestal.inprocess import LoadedArchive

PROMPTS = [
    "The quick brown fox",
    "",
    " \n\t",
    "😀🦊👩‍👩‍👧",
    "Привет, мир",
    "你好",
    "a\x00b",
    "x" * 60,
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_that_of_transformers(generator, generator_folder, prompt):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(generator_folder)
    model = AutoModelForCausalLM.from_pretrained(generator_folder, dtype=torch.float32)
    ids = tokenizer(prompt or "<|endoftext|>", return_tensors="pt")["input_ids"]
    count = min(8, CONTEXT - ids.shape[1])
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )[0, ids.shape[1] :]
    ours = prediction(generator, prompt)
    assert ours["text"] == tokenizer.decode(expected, skip_special_tokens=True).rstrip("\ufffd")
    assert ours["prompt_tokens"] == ids.shape[1]
    assert ours["completion_tokens"] == len(expected)
    assert ours["finish_reason"] == ("eos" if expected[-1] == 0 else "length")


def test_an_incomplete_last_character_is_omitted(language):
    for prompt in PROMPTS:
        ids = language.tokenizer.encode(prompt).ids
        for end in range(len(ids) + 1):
            assert prompt.startswith(language.text(ids[:end]))


def test_a_stop_string_ends_the_text_before_it(generator):
    whole = prediction(generator, {"prompt": "The fox", "max_new_tokens": 40})
    text = whole["text"]
    for start, length in [(0, 1), (3, 1), (5, 6), (9, 12)]:
        stop = text[start : start + length]
        found = prediction(generator, {"prompt": "The fox", "max_new_tokens": 40, "stop": [stop]})
        assert found["text"] == text[: text.index(stop)]
        assert found["finish_reason"] == "stop"
        assert found["completion_tokens"] < whole["completion_tokens"]


def test_the_first_of_several_stop_strings_ends_the_text(generator):
    text = prediction(generator, {"prompt": "The fox", "max_new_tokens": 40})["text"]
    stops = [text[8:10], text[4:6], "never comes"]
    found = prediction(generator, {"prompt": "The fox", "max_new_tokens": 40, "stop": stops})
    assert found["text"] == text[: min(text.index(stop) for stop in stops[:2])]
    single = prediction(
        generator, {"prompt": "The fox", "max_new_tokens": 40, "stop": "never comes"}
    )
    assert single["text"] == text
    assert single["finish_reason"] != "stop"


def test_a_seed_gives_the_same_text_alone_and_in_any_batch(generator):
    request_body = {
        "prompt": "The",
        "temperature": 1.5,
        "top_p": 0.95,
        "seed": 11,
        "max_new_tokens": 20,
    }
    expected = prediction(generator, request_body)
    others = ["a longer prompt than the first", {"prompt": "b", "temperature": 1}, "c"]
    for found in (
        *send(generator, request_body, *others)[:1],
        send(generator, *others, request_body)[3],
    ):
        assert found.json() == expected
    assert prediction(generator, {**request_body, "seed": 12})["text"] != expected["text"]


def test_a_prediction_contains_its_random_seed(generator):
    request_body = {"prompt": "The", "top_k": 50, "max_new_tokens": 20}
    first = prediction(generator, request_body)
    assert prediction(generator, {**request_body, "seed": first["seed"]}) == first


@pytest.mark.parametrize(
    "request_body", [{"temperature": 0}, {"temperature": 0, "top_k": 3}, {"seed": 4}, {"top_k": 1}]
)
def test_parameters_that_amount_to_greedy_give_the_greedy_text(generator, request_body):
    expected = prediction(generator, "The fox")["text"]
    assert prediction(generator, {"prompt": "The fox", **request_body})["text"] == expected


def test_a_score_is_the_log_probability_of_each_token(generator, language):
    prompt = "The fox 🦊"
    found = prediction(generator, {"prompt": prompt, "score": True})
    ids = language.tokenizer.encode(prompt).ids
    with torch.inference_mode():
        logits = language.model(input_ids=torch.tensor([ids])).logits[0]
    expected = torch.log_softmax(logits[:-1], -1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert found["token_ids"] == ids
    assert found["tokens"][:2] == [language.piece(token) for token in ids[:2]]
    assert found["logprobs"][0] is None
    np.testing.assert_allclose(found["logprobs"][1:], expected.numpy(), atol=1e-5)
    assert found["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("prompt", ["", "a"])
def test_one_token_has_no_score(generator, prompt):
    found = prediction(generator, {"prompt": prompt, "score": True})
    assert (found["logprobs"], found["prompt_tokens"]) == ([None], 1)


GOOD = [
    "The fox",
    "",
    {"prompt": "😀", "max_new_tokens": 12},
    {"prompt": "The fox jumps over the lazy dog", "temperature": 0.8, "seed": 3},
    {"prompt": "Привет", "top_k": 20, "seed": 4, "max_new_tokens": 3},
    {"prompt": "if", "stop": ["e", "a"], "max_new_tokens": 30},
]


SCORES = [{"prompt": "for x in range", "score": True}, {"prompt": "a", "score": True}]


BAD = [{"prompt": "a" * 200}, {"prompt": "a", "top_p": 2}, [1], {"promt": "a"}]


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from([*GOOD, *SCORES, *BAD]), min_size=1, max_size=16))
def test_every_request_of_a_batch_gets_the_text_that_it_gets_alone(generator, request_body):
    for value, found in zip(request_body, send(generator, *request_body), strict=True):
        (alone,) = send(generator, value)
        assert found.status == alone.status
        ours, theirs = found.json(), alone.json()
        for one in (ours, theirs):
            one.pop("request_id", None)
        if "logprobs" in ours:
            np.testing.assert_allclose(
                ours.pop("logprobs")[1:], theirs.pop("logprobs")[1:], atol=1e-5
            )
        assert ours == theirs


def test_only_the_bad_of_sixty_four_requests_fail(generator):
    request_body = [(GOOD + BAD)[index % 10] for index in range(64)]
    statuses = [found.status for found in send(generator, *request_body)]
    assert [status == 200 for status in statuses] == [value in GOOD for value in request_body]


def test_a_request_with_non_finite_logits_fails_alone(generator, language, monkeypatch):
    plain = type(language.model).forward

    def poisoned(self, input_ids, **options):
        output = plain(self, input_ids=input_ids, **options)
        output.logits[(input_ids == 0).any(dim=1)] = math.nan
        return output

    monkeypatch.setattr(type(language.model), "forward", poisoned)
    poison = "<|endoftext|>"  # token 0; as padding it stands only where prompts differ in length
    good, bad, score = send(generator, "ab", f"a{poison}", {"prompt": f"a{poison}b", "score": True})
    assert [good.status, bad.status, score.status] == [200, 500, 500]
    assert "not finite" in bad.json()["message"]


def test_a_batch_ends_at_its_deadline(changed):
    with LoadedArchive(changed("handler: {max_seconds: 0.000001, max_new_tokens: 50}")) as loaded:
        answers = send(loaded, "The fox", {"prompt": "The fox", "score": True})
    for found in answers:
        assert found.status == 500
        assert "the time limit of this batch passed" in found.json()["message"]
