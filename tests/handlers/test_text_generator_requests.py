"""What a request for text may contain, and how invalid requests are refused."""

from __future__ import annotations

import json
import math

import pytest
from jsonschema import Draft202012Validator
from tiny_gpt2 import CONTEXT, prediction, refusal

from vestal.inprocess import Input, LoadedArchive
from vestal_handlers.device import sha256_of


def test_every_way_to_send_a_prompt_gives_the_same_text(generator):
    prompt = "naïve fox 🦊"
    inputs = [
        Input.raw(prompt.encode()),
        Input.raw(prompt.encode(), "text/plain; charset=utf-8"),
        Input.raw(json.dumps(prompt).encode(), "application/json"),
        Input.raw(json.dumps({"prompt": prompt}).encode(), "application/json"),
        Input.raw(json.dumps({"data": prompt}).encode(), "application/json"),
        Input.form({"prompt": prompt}),
    ]
    expected = prediction(generator, prompt)
    assert [found.json() for found in generator.predict(inputs)] == [expected] * len(inputs)


def test_each_of_several_prompts_in_a_request_gets_a_text(generator):
    found = prediction(generator, {"instances": ["one", {"prompt": "two", "max_new_tokens": 2}, 3]})
    one, two, three = found["predictions"]
    assert one == prediction(generator, "one")
    assert two["completion_tokens"] <= 2
    assert three["code"] == 415


def test_numbers_in_form_fields_are_parsed(generator):
    fields = {"prompt": "fox", "max_new_tokens": "3", "temperature": "0.5", "seed": "1"}
    (found,) = generator.predict([Input.form(fields)])
    request_body = {"prompt": "fox", "max_new_tokens": 3, "temperature": 0.5, "seed": 1}
    assert found.json() == prediction(generator, request_body)
    (found,) = generator.predict([Input.form({**fields, "seed": "one"})])
    assert found.status == 422
    assert "seed" in found.json()["message"]


@pytest.mark.parametrize(
    ("request_body", "status", "named"),
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
def test_an_invalid_field_is_refused_by_name(generator, request_body, status, named):
    found, message = refusal(generator, request_body)
    assert found == status
    assert named in message


def test_bytes_that_are_not_utf_8_are_refused(generator):
    (found,) = generator.predict([b"fox \xff"])
    assert found.status == 400
    assert "not UTF-8 (byte 4)" in found.json()["message"]


def test_a_prompt_over_the_context_is_refused_with_its_length_and_the_limit(generator, language):
    prompt = "fox 🦊 " * 30
    count = len(language.tokenizer.encode(prompt).ids)
    status, message = refusal(generator, prompt)
    assert status == 413
    assert f"{count} tokens, at most {CONTEXT - 1}" in message
    assert "truncate" in message


def test_truncate_cuts_a_prompt_over_the_context_on_its_left(generator, language):
    prompt = "The fox jumps. " * 30
    ids = language.tokenizer.encode(prompt).ids
    found = prediction(generator, {"prompt": prompt, "truncate": True, "max_new_tokens": 5})
    kept = CONTEXT - 5
    assert (found["prompt_tokens"], found["truncated_tokens"]) == (kept, len(ids) - kept)
    scored = prediction(generator, {"prompt": prompt, "truncate": True, "score": True})
    assert scored["token_ids"] == ids[-CONTEXT:]
    short = prediction(generator, {"prompt": "fox", "truncate": True})
    assert short.pop("truncated_tokens") == 0
    assert short == prediction(generator, "fox")


def test_a_truncated_prompt_keeps_at_least_half_of_the_context(generator):
    request_body = {"prompt": "The fox jumps. " * 30, "truncate": True, "max_new_tokens": 200}
    assert prediction(generator, request_body)["prompt_tokens"] == (CONTEXT - 1) // 2


def test_a_prompt_of_too_many_characters_is_refused_before_it_is_tokenized(changed):
    with LoadedArchive(changed("handler: {max_prompt_chars: 50}")) as loaded:
        status, message = refusal(loaded, {"prompt": "a" * 51, "truncate": True})
    assert status == 413
    assert "51 characters, at most 50 (handler.max_prompt_chars)" in message


def test_describe_returns_schemas_of_input_and_output(generator, generator_folder):
    (found,) = generator.predict([Input.raw(b"", describe="True")])
    description = found.json()
    assert description["engine"]["architecture"] == "GPT2LMHeadModel"
    assert description["limits"]["context"] == CONTEXT
    assert description["artifact_sha256"] == sha256_of(generator_folder / "model.safetensors")
    takes, gives = (Draft202012Validator(description[name]) for name in ("input", "output"))
    for schema in (takes, gives):
        schema.check_schema(schema.schema)
    for value in (
        description["example"],
        "text",
        {"prompt": "a", "top_k": 4},
        {"prompt": "a", "score": True},
    ):
        takes.validate(value)
        gives.validate(prediction(generator, value))
