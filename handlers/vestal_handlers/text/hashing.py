"""Hash the word n-grams of a text to a vector of fixed size; training and serving share it.

The hashing trick (Weinberger et al., 2009, https://arxiv.org/abs/0902.2206): the hash of an n-gram
is the bucket in which it is counted, so no vocabulary is needed. The random sign of the paper is
left out: a bucket is then a count, which an explanation can distribute to words. The model cannot
tell two n-grams in one bucket apart; with 2,048 buckets and a text of 100 different n-grams, this
happens to about one n-gram in twenty.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_WORD = re.compile(r"\w+|[^\w\s]")  # a word, or one punctuation mark
# Knuth's multiplicative hashing, 2**32 / golden ratio (The Art of Computer Programming 3, 6.4).
_KNUTH = np.uint64(2654435761)
_LOW_32 = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class TextTransform:
    """The preprocessing of a text classifier; the `transforms.py` of a model creates it.

    Attributes:
        size: the size of the vector.
        words: the longest n-gram, in words; 2 counts words and pairs.
    """

    size: int = 2048
    words: int = 2

    def __call__(self, text: str) -> Tensor:
        """Return float32 [size]: counts of the n-grams, scaled to length 1 (zeros without words).

        The result is the same on every machine: CRC-32 of each word in UTF-8, then integers.
        """
        counts = np.zeros(self.size)
        for buckets in self.buckets(self.split(text)):
            counts += np.bincount(buckets, minlength=self.size)
        norm = np.sqrt(np.square(counts).sum())
        return torch.from_numpy((counts / (norm or 1.0)).astype(np.float32))

    def example_input(self) -> Tensor:
        """The vector of an empty text, for the warm-up and as the baseline of explanations."""
        return torch.zeros(self.size)

    def split(self, text: str) -> list[str]:
        """The words and punctuation marks of a text."""
        return _WORD.findall(text)

    def buckets(self, words: list[str]) -> list[npt.NDArray[np.int64]]:
        """For n = 1, 2, ...: the bucket of the n-gram that begins at each word, [words - n + 1].

        An n-gram's hash is a polynomial of its words' CRC-32, modulo 2**32:
        h(w1 ... wn) = (h(w1 ... wn-1) * K + crc(wn)) * K; its middle bits give the bucket.
        """
        crc = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64)
        buckets, hashed = [], np.zeros(len(words), dtype=np.uint64)
        for n in range(1, min(self.words, len(words)) + 1):
            last = crc[n - 1 :]
            hashed = (hashed[: len(last)] * _KNUTH + last) * _KNUTH & _LOW_32
            # The low bits of a product depend only on low bits, so high bits are mixed in.
            mixed = hashed ^ (hashed >> np.uint64(15))
            buckets.append((mixed % np.uint64(self.size)).astype(np.int64))
        return buckets

    def distribute(self, words: list[str], values: Tensor) -> list[float]:
        """Distribute the values of a vector, float32 [size], to the words; the sum is the same.

        The value of a bucket is divided equally among its n-grams, which cannot be told apart, and
        the value of an n-gram equally among its words.
        """
        buckets = self.buckets(words)
        counts = sum(np.bincount(p, minlength=self.size) for p in buckets)
        each = values.double().numpy() / np.maximum(counts, 1)
        shares = np.zeros(len(words))
        for n, numbers in enumerate(buckets, start=1):
            for offset in range(n):
                shares[offset : offset + len(numbers)] += each[numbers] / n
        distributed: list[float] = shares.tolist()
        return distributed
