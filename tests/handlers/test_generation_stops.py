"""Stop strings are found as in the whole text, but only its last tokens are decoded."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gpt2 import VOCABULARY, byte_level_bpe
from tokenizers import Tokenizer, decoders, models

from vestal_handlers.text.stops import REPLACEMENT, StopMatcher

BYTES = byte_level_bpe()
WORDS = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "b": 2, "▁": 3, "é": 4}, unk_token="b"))
WORDS.decoder = decoders.Metaspace()


def decoder(tokenizer):
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True)


def first_stop(decode, tokens, strings):
    """The number of tokens after which the text contains a stop string; None: never."""
    for count in range(1, len(tokens) + 1):
        text = decode(tokens[:count]).rstrip(REPLACEMENT)
        if any(string in text for string in strings):
            return count
    return None


def found_by(stops, tokens):
    return next((n for n in range(1, len(tokens) + 1) if stops(tokens[:n])), None)


TEXTS = st.text(st.sampled_from("ab é🦊你\n "), min_size=1, max_size=40)


@settings(max_examples=300)
@given(TEXTS, st.lists(st.text("ab é🦊你\n ", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_is_found_when_the_whole_text_contains_it(text, strings):
    tokens, decode = BYTES.encode(text).ids, decoder(BYTES)
    assert found_by(StopMatcher(strings, decode), tokens) == first_stop(decode, tokens, strings)


@settings(max_examples=300)
@given(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40), st.data())
def test_a_stop_string_is_found_among_random_tokens(tokens, data):
    """Includes broken characters and special tokens, as a model samples at a high temperature."""
    decode = decoder(BYTES)
    text = decode(tokens).rstrip(REPLACEMENT) or "x"
    start = data.draw(st.integers(0, len(text) - 1))
    strings = [text[start : start + data.draw(st.integers(1, 12))]]
    assert found_by(StopMatcher(strings, decode), tokens) == first_stop(decode, tokens, strings)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.sampled_from(["a b", " b", "bb"]))
def test_a_stop_string_is_found_if_the_tokenizer_omits_the_first_space(tokens, string):
    decode = decoder(WORDS)
    assert found_by(StopMatcher([string], decode), tokens) == first_stop(decode, tokens, [string])


@pytest.mark.parametrize("text", ["the quick brown fox " * 40, "🦊你好" * 60])
def test_each_token_decodes_only_a_few_tokens(text):
    decoded = []

    def decode(ids):
        decoded.append(len(ids))
        return BYTES.decode(ids)

    tokens = BYTES.encode(text).ids
    assert found_by(StopMatcher(["x" * 64], decode), tokens) is None
    assert max(decoded) <= 8
    assert sum(decoded) <= 10 * len(tokens)
