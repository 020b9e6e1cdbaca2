"""The text generator, on a tiny GPT-2 with a byte-level BPE of its own, in an unpacked archive."""

from __future__ import annotations

import json
import math
import shutil
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from test_generation import CONTEXT, VOCABULARY, tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from vestal.errors import VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.mar.layout import MANIFEST
from vestal_handlers.device import sha256_of

HANDLER = """
from vestal_handlers.tasks.text_generator import TextGenerator


class Handler(TextGenerator):
    pass
"""
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


def byte_level_bpe(vocabulary: int = VOCABULARY) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(topics.values())[:5], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    tiny_model().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(), eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    (folder / "handler.py").write_text(HANDLER)
    (folder / "MAR-INF").mkdir()
    model = {
        "modelName": "tiny",
        "modelVersion": "1.0",
        "handler": "handler.py",
        "serializedFile": "model.safetensors",
        "configFile": "model-config.yaml",
    }
    (folder / MANIFEST).write_text(json.dumps({"model": model}))
    (folder / "model-config.yaml").write_text("batchSize: 4\nhandler: {max_new_tokens: 8}\n")
    return folder


@pytest.fixture(scope="module")
def generator(generator_folder):
    with LoadedArchive(generator_folder) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def language(generator):
    return generator._service._entry_point.__self__.engine


@pytest.fixture
def changed(generator_folder, tmp_path):
    """The archive with another model-config.yaml."""

    def change(config):
        folder = tmp_path / "changed"
        shutil.copytree(generator_folder, folder)
        (folder / "model-config.yaml").write_text(config)
        return folder

    return change


def ask(loaded, *values):
    batch = [Input.raw(json.dumps(value).encode(), "application/json") for value in values]
    return loaded.predict(batch)


def answer(loaded, value):
    (found,) = ask(loaded, value)
    assert found.status == 200, found.body
    return found.json()


def refusal(loaded, value):
    (found,) = ask(loaded, value)
    return found.status, found.json()["message"]


# --- Text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_what_transformers_gives(generator, generator_folder, prompt):
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
    ours = answer(generator, prompt)
    assert ours["text"] == tokenizer.decode(expected, skip_special_tokens=True).rstrip("\ufffd")
    assert ours["prompt_tokens"] == ids.shape[1]
    assert ours["completion_tokens"] == len(expected)
    assert ours["finish_reason"] == ("eos" if expected[-1] == 0 else "length")


def test_every_way_to_send_a_prompt_gives_the_same(generator):
    prompt = "naïve fox 🦊"
    inputs = [
        Input.raw(prompt.encode()),
        Input.raw(prompt.encode(), "text/plain; charset=utf-8"),
        Input.raw(json.dumps(prompt).encode(), "application/json"),
        Input.raw(json.dumps({"prompt": prompt}).encode(), "application/json"),
        Input.raw(json.dumps({"data": prompt}).encode(), "application/json"),
        Input.form({"prompt": prompt}),
    ]
    expected = answer(generator, prompt)
    assert [found.json() for found in generator.predict(inputs)] == [expected] * len(inputs)


def test_several_prompts_in_one_request(generator):
    found = answer(generator, {"instances": ["one", {"prompt": "two", "max_new_tokens": 2}, 3]})
    one, two, three = found["predictions"]
    assert one == answer(generator, "one")
    assert two["completion_tokens"] <= 2
    assert three["code"] == 415


def test_numbers_of_a_form_are_read(generator):
    fields = {"prompt": "fox", "max_new_tokens": "3", "temperature": "0.5", "seed": "1"}
    (found,) = generator.predict([Input.form(fields)])
    asked = {"prompt": "fox", "max_new_tokens": 3, "temperature": 0.5, "seed": 1}
    assert found.json() == answer(generator, asked)
    (found,) = generator.predict([Input.form({**fields, "seed": "one"})])
    assert found.status == 422
    assert "seed" in found.json()["message"]


def test_an_incomplete_last_character_is_left_out(language):
    for prompt in PROMPTS:
        ids = language.tokenizer.encode(prompt).ids
        for end in range(len(ids) + 1):
            assert prompt.startswith(language.text(ids[:end]))


def test_stop_strings_cut_the_text_where_they_begin(generator):
    whole = answer(generator, {"prompt": "The fox", "max_new_tokens": 40})
    text = whole["text"]
    for start, length in [(0, 1), (3, 1), (5, 6), (9, 12)]:
        stop = text[start : start + length]
        found = answer(generator, {"prompt": "The fox", "max_new_tokens": 40, "stop": [stop]})
        assert found["text"] == text[: text.index(stop)]
        assert found["finish_reason"] == "stop"
        assert found["completion_tokens"] < whole["completion_tokens"]


def test_the_first_of_several_stops_counts_and_one_that_never_comes_does_not(generator):
    text = answer(generator, {"prompt": "The fox", "max_new_tokens": 40})["text"]
    stops = [text[8:10], text[4:6], "never comes"]
    found = answer(generator, {"prompt": "The fox", "max_new_tokens": 40, "stop": stops})
    assert found["text"] == text[: min(text.index(stop) for stop in stops[:2])]
    single = answer(generator, {"prompt": "The fox", "max_new_tokens": 40, "stop": "never comes"})
    assert single["text"] == text
    assert single["finish_reason"] != "stop"


# --- Sampling ---------------------------------------------------------------------------------


def test_a_seed_gives_the_same_text_alone_and_in_any_batch(generator):
    asked = {"prompt": "The", "temperature": 1.5, "top_p": 0.95, "seed": 11, "max_new_tokens": 20}
    expected = answer(generator, asked)
    others = ["a longer prompt than the first", {"prompt": "b", "temperature": 1}, "c"]
    for found in (*ask(generator, asked, *others)[:1], ask(generator, *others, asked)[3]):
        assert found.json() == expected
    assert answer(generator, {**asked, "seed": 12})["text"] != expected["text"]


def test_the_seed_that_was_drawn_is_answered(generator):
    asked = {"prompt": "The", "top_k": 50, "max_new_tokens": 20}
    first = answer(generator, asked)
    assert answer(generator, {**asked, "seed": first["seed"]}) == first


@pytest.mark.parametrize(
    "asked", [{"temperature": 0}, {"temperature": 0, "top_k": 3}, {"seed": 4}, {"top_k": 1}]
)
def test_greedy_in_other_words(generator, asked):
    expected = answer(generator, "The fox")["text"]
    assert answer(generator, {"prompt": "The fox", **asked})["text"] == expected


# --- Refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "named"),
    [
        ({"prompt": "a", "max_tokens": 5}, 422, "max_tokens"),
        ({"max_new_tokens": 5}, 422, "prompt"),
        ({"prompt": 5}, 422, "prompt"),
        ({"prompt": None}, 422, "prompt"),
        ({"prompt": "a", "max_new_tokens": 0}, 422, "max_new_tokens"),
        ({"prompt": "a", "max_new_tokens": 257}, 422, "max_new_tokens"),
        ({"prompt": "a", "max_new_tokens": 1.5}, 422, "max_new_tokens"),
        ({"prompt": "a", "max_new_tokens": "5"}, 422, "max_new_tokens"),
        ({"prompt": "a", "max_new_tokens": True}, 422, "max_new_tokens"),
        ({"prompt": "a", "temperature": -0.1}, 422, "temperature"),
        ({"prompt": "a", "temperature": 2.1}, 422, "temperature"),
        ({"prompt": "a", "temperature": math.nan}, 422, "temperature"),
        ({"prompt": "a", "temperature": math.inf}, 422, "temperature"),
        ({"prompt": "a", "top_k": 0}, 422, "top_k"),
        ({"prompt": "a", "top_p": 0}, 422, "top_p"),
        ({"prompt": "a", "top_p": math.nan}, 422, "top_p"),
        ({"prompt": "a", "top_p": 1.1}, 422, "top_p"),
        ({"prompt": "a", "seed": -1}, 422, "seed"),
        ({"prompt": "a", "seed": 2**63}, 422, "seed"),
        ({"prompt": "a", "stop": ""}, 422, "stop"),
        ({"prompt": "a", "stop": []}, 422, "stop"),
        ({"prompt": "a", "stop": ["b"] * 9}, 422, "stop"),
        ({"prompt": "a", "stop": ["b", 5]}, 422, "stop"),
        ({"prompt": "a", "stop": ["b" * 65]}, 422, "stop"),
        ({"prompt": "a", "score": "yes"}, 422, "score"),
        ({"prompt": "a", "score": True, "top_k": 5}, 422, "top_k"),
        ({"prompt": "a", "truncate": 1}, 422, "truncate"),
        ({"prompt": "\ud83d"}, 400, "surrogate"),
        ({"prompt": "a", "stop": "\ud83d"}, 400, "surrogate"),
        (["a", "b"], 415, "prompt"),
        (5, 415, "prompt"),
        (None, 415, "prompt"),
    ],
)
def test_a_bad_request_is_refused_by_name(generator, asked, status, named):
    found, message = refusal(generator, asked)
    assert found == status
    assert named in message


def test_bytes_that_are_no_text_are_refused(generator):
    (found,) = generator.predict([b"fox \xff"])
    assert found.status == 400
    assert "not UTF-8 (byte 4)" in found.json()["message"]


def test_a_prompt_over_the_context_is_refused_with_both_numbers(generator, language):
    prompt = "fox 🦊 " * 30
    count = len(language.tokenizer.encode(prompt).ids)
    status, message = refusal(generator, prompt)
    assert status == 413
    assert f"{count} tokens, at most {CONTEXT - 1}" in message
    assert "truncate" in message


def test_a_prompt_over_the_context_is_cut_from_the_left_if_asked(generator, language):
    prompt = "The fox jumps. " * 30
    ids = language.tokenizer.encode(prompt).ids
    found = answer(generator, {"prompt": prompt, "truncate": True, "max_new_tokens": 5})
    kept = CONTEXT - 5
    assert (found["prompt_tokens"], found["truncated_tokens"]) == (kept, len(ids) - kept)
    scored = answer(generator, {"prompt": prompt, "truncate": True, "score": True})
    assert scored["token_ids"] == ids[-CONTEXT:]
    short = answer(generator, {"prompt": "fox", "truncate": True})
    assert short.pop("truncated_tokens") == 0
    assert short == answer(generator, "fox")


def test_more_new_tokens_than_the_context_leave_half_of_it_to_the_prompt(generator):
    asked = {"prompt": "The fox jumps. " * 30, "truncate": True, "max_new_tokens": 200}
    assert answer(generator, asked)["prompt_tokens"] == (CONTEXT - 1) // 2


def test_a_prompt_of_too_many_characters_is_not_even_tokenized(changed):
    with LoadedArchive(changed("handler: {max_prompt_chars: 50}")) as loaded:
        status, message = refusal(loaded, {"prompt": "a" * 51, "truncate": True})
    assert status == 413
    assert "51 characters, at most 50 (handler.max_prompt_chars)" in message


# --- Scores -----------------------------------------------------------------------------------


def test_a_score_is_the_log_probability_of_each_token(generator, language):
    prompt = "The fox 🦊"
    found = answer(generator, {"prompt": prompt, "score": True})
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
    found = answer(generator, {"prompt": prompt, "score": True})
    assert (found["logprobs"], found["prompt_tokens"]) == ([None], 1)


# --- Batches ----------------------------------------------------------------------------------

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
def test_every_request_of_any_mix_has_the_answer_it_has_alone(generator, asked):
    for value, found in zip(asked, ask(generator, *asked), strict=True):
        (alone,) = ask(generator, value)
        assert found.status == alone.status
        ours, theirs = found.json(), alone.json()
        for one in (ours, theirs):
            one.pop("request_id", None)
        if "logprobs" in ours:
            np.testing.assert_allclose(
                ours.pop("logprobs")[1:], theirs.pop("logprobs")[1:], atol=1e-5
            )
        assert ours == theirs


def test_sixty_four_requests_of_which_some_fail(generator):
    asked = [(GOOD + BAD)[index % 10] for index in range(64)]
    statuses = [found.status for found in ask(generator, *asked)]
    assert [status == 200 for status in statuses] == [value in GOOD for value in asked]


def test_a_request_that_the_model_cannot_answer_fails_alone(generator, language, monkeypatch):
    plain = type(language.model).forward

    def poisoned(self, input_ids, **given):
        output = plain(self, input_ids=input_ids, **given)
        output.logits[(input_ids == 0).any(dim=1)] = math.nan
        return output

    monkeypatch.setattr(type(language.model), "forward", poisoned)
    poison = "<|endoftext|>"  # token 0; as padding it stands only where prompts differ in length
    good, bad, score = ask(generator, "ab", f"a{poison}", {"prompt": f"a{poison}b", "score": True})
    assert [good.status, bad.status, score.status] == [200, 500, 500]
    assert "not finite" in bad.json()["message"]


def test_a_batch_ends_in_time(changed):
    with LoadedArchive(changed("handler: {max_seconds: 0.000001, max_new_tokens: 50}")) as loaded:
        answers = ask(loaded, "The fox", {"prompt": "The fox", "score": True})
    for found in answers:
        assert found.status == 500
        assert "the time limit of this batch passed" in found.json()["message"]


# --- Loading ----------------------------------------------------------------------------------


def test_describe_says_what_is_taken_and_given(generator, generator_folder):
    (found,) = generator.predict([Input.raw(b"", describe="True")])
    said = found.json()
    assert said["engine"]["architecture"] == "GPT2LMHeadModel"
    assert said["limits"]["context"] == CONTEXT
    assert said["artifact_sha256"] == sha256_of(generator_folder / "model.safetensors")
    takes, gives = (Draft202012Validator(said[name]) for name in ("input", "output"))
    for schema in (takes, gives):
        schema.check_schema(schema.schema)
    for value in (said["example"], "text", {"prompt": "a", "top_k": 4}, SCORES[0]):
        takes.validate(value)
        gives.validate(answer(generator, value))


def refuse_to_load(folder, message):
    with pytest.raises(VestalError, match=message):
        LoadedArchive(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_a_failed_load(changed, name):
    folder = changed("")
    (folder / name).unlink()
    refuse_to_load(folder, rf"no {name} in .*, the folder of the weights")


def test_pickled_weights_are_not_read(changed):
    folder = changed("")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), folder / "pytorch_model.bin")
    refuse_to_load(folder, "did not load")


def test_weights_that_lack_something_are_a_failed_load(changed):
    from safetensors.torch import load_file, save_file

    folder = changed("")
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refuse_to_load(folder, "do not fit config.json.*h.1.mlp.c_fc.weight")


def test_another_models_tokenizer_is_a_failed_load(changed):
    folder = changed("")
    byte_level_bpe(VOCABULARY + 50).save(str(folder / "tokenizer.json"))
    refuse_to_load(
        folder, "tokenizer.json has a token 349.*ends at 299. Use the tokenizer.json of this model"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("handler: {max_new_tokens: 300}", "max_new_tokens is 300, more than .*_limit, 256"),
        ("handler: {precision: bf16}", "does not support handler.precision: bf16, only fp32"),
        ("handler: {max_stops: 3}", "did you mean max_stop"),
    ],
)
def test_a_wrong_option_is_a_failed_load(changed, config, message):
    refuse_to_load(changed(config), message)
