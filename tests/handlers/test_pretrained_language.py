"""Pretrained models that fill masks, answer, embed and write predict what transformers predicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from pretrained_folders import TEXTS
from pretrained_models import LONG, ask, pipeline

from vestal.errors import VestalError
from vestal_handlers.text.languages import LanguageOptions, Languages
from vestal_handlers.text.tokens import TextTokenizer

pytestmark = pytest.mark.heavy


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


def test_answers_are_the_most_probable_spans(models):
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
    (ours,) = ask(loaded, {"question": question, "context": context, "top_k": 5})
    assert ours["answer"] == ours["top"][0]["answer"]
    for answer, (probability, a, b) in zip(ours["top"], sorted(spans, reverse=True), strict=False):
        start, end = offsets[places[a]][0], offsets[places[b]][1]
        assert answer["answer"] == context[start:end]
        assert (answer["start"], answer["end"]) == (start, end)
        assert answer["probability"] == pytest.approx(probability, abs=1e-5)
    assert len(ours["top"]) == 5
    (one,) = ask(loaded, {"question": question, "context": context})
    assert one["top"] == ours["top"][:1]


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
    _, normalized = models("feature-extraction", pooling="first", normalize=True)
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


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [("several languages", "deu_Latn", "fra_Latn"), ("languages at the end", "de_DE", "ro_RO")],
)
def test_translations_between_languages_equal_transformers(models, name, source, target):
    folder, loaded = models(name)
    module = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    fast, ours = (transformers.AutoTokenizer.from_pretrained(folder) for _ in range(2))
    languages = Languages(ours, LanguageOptions(), module.generation_config)
    texts = TextTokenizer(ours, 64, "", frozenset(fast.model_input_names))
    found = set()
    for fields in ({"src_lang": source, "tgt_lang": target}, {"tgt_lang": target}):
        fast.src_lang = fields.get("src_lang", ours.src_lang)
        # Of the last one, the words are tokens of languages, too, which stay.
        for text in [*TEXTS, f"A {source} and {ours.src_lang} fox"]:
            inputs = fast(text, return_tensors="pt")
            encoding = texts.encode(text)
            ids = languages.inputs(texts.tensors(encoding), encoding, fields)["input_ids"]
            assert ids.tolist() == inputs["input_ids"][0].tolist()
            (tokens,) = module.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=9,
                forced_bos_token_id=fast.convert_tokens_to_ids(target),
            )
            (answer,) = ask(loaded, {"text": text, **fields, "max_new_tokens": 9})
            assert answer["text"] == fast.decode(tokens, skip_special_tokens=True)
            assert answer["tokens"] == len(ids)
            found.add(answer["text"])
    assert len(found) > 2


def test_the_language_of_a_translation_is_named_by_requests_or_options(models):
    _, loaded = models("several languages")
    missing, wrong = ask(loaded, "A fox", {"text": "A fox", "tgt_lang": "fra_latn"})
    assert missing == (
        422,
        "the language to translate to is missing: add field 'tgt_lang', or set handler.tgt_lang",
    )
    assert wrong[0] == 422
    assert "field 'tgt_lang' must be one of ace_Arab, ace_Latn" in wrong[1]
    assert "(did you mean 'fra_Latn'?)" in wrong[1]
    _, fixed = models("several languages", src_lang="deu_Latn", tgt_lang="fra_Latn")
    text = {"text": TEXTS[0], "max_new_tokens": 8}
    named = {**text, "src_lang": "deu_Latn", "tgt_lang": "fra_Latn"}
    assert ask(fixed, text) == ask(loaded, named)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("several languages", {"tgt_lang": "French"}, "'tgt_lang' must be one of ace_Arab, .*Fren"),
        ("summarization", {"src_lang": "fr"}, "src_lang is set, but the model has no"),
    ],
)
def test_an_unknown_language_is_an_error_when_the_model_loads(models, name, options, message):
    with pytest.raises(VestalError, match=message):
        models(name, **options)


def test_a_model_of_one_pair_and_a_language_of_its_own_need_no_field(models):
    folder, _ = models("languages at the end")
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    romanian = fast.convert_tokens_to_ids("ro_RO")
    for name in ("decoder_start_token_id", "forced_bos_token_id"):
        config = transformers.GenerationConfig(**{name: romanian})
        languages = Languages(fast, LanguageOptions(), config)
        assert (languages.example(), languages.settings({})) == ({}, [])
    fast.add_special_tokens({"extra_special_tokens": ["xx_XX"]})
    fast.src_lang = fast.tgt_lang = "xx_XX"
    own = Languages(fast, LanguageOptions(), transformers.GenerationConfig())
    assert own.fields()["src_lang"]["enum"][-1] == "xx_XX"
    assert own.settings({}) == [("forced_bos_token_id", fast.convert_tokens_to_ids("xx_XX"))]
    texts = TextTokenizer(fast, 64, "", frozenset(fast.model_input_names))
    encoding = texts.encode("A fox")
    for fields, last in (({}, "xx_XX"), ({"src_lang": "ro_RO"}, "ro_RO")):
        ids = own.inputs(texts.tensors(encoding), encoding, fields)["input_ids"]
        assert fast.convert_ids_to_tokens(ids.tolist())[-1] == last
