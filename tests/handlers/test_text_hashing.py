"""Hashed n-grams: training and serving share them, on every machine."""

from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vestal_handlers.text.hashing import TextTransform

BUCKETS = [[706, 1547, 706, 1547], [1788, 152, 1788]]


def test_hashing_is_the_same_on_every_machine():
    """The expected buckets are constants: trained models depend on them."""
    buckets = TextTransform().buckets(["to", "be", "to", "be"])
    assert [of_n.tolist() for of_n in buckets] == BUCKETS
    knuth, crc = 2654435761, [zlib.crc32(word) for word in (b"to", b"be")]
    pair = (crc[0] * knuth * knuth + crc[1]) * knuth % 2**32
    assert BUCKETS[1][0] == (pair ^ (pair >> 15)) % 2048


def test_word_order_matters_only_with_pairs():
    pairs, single = TextTransform(words=2), TextTransform(words=1)
    assert torch.equal(single("dog bites man"), single("man bites dog"))
    assert not torch.equal(pairs("dog bites man"), pairs("man bites dog"))


@given(st.text(max_size=200), st.integers(1, 3), st.integers(8, 64))
def test_a_vector_has_length_one_and_its_values_are_distributed_completely(text, words, size):
    if any("\ud800" <= character <= "\udfff" for character in text):
        return  # no Unicode text; a request with it is refused before
    transform = TextTransform(size=size, words=words)
    vector, split = transform(text), transform.split(text)
    assert vector.dtype == torch.float32
    assert vector.shape == (size,)
    assert float(vector.norm()) == pytest.approx(1.0 if split else 0.0, abs=1e-6)
    shares = transform.distribute(split, vector)
    assert len(shares) == len(split)
    assert sum(shares) == pytest.approx(float(vector.sum()), abs=1e-5)
