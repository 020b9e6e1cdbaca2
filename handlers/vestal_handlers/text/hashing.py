"""Text becomes a vector of fixed length by hashing its word n-grams; training and serving share it.

The hashing trick (Weinberger et al., 2009, https://arxiv.org/abs/0902.2206): an n-gram's hash says
which of the vector's places it counts in, so there is no vocabulary to build, ship or miss. Without
their random sign: then a place's value is a count, which an explanation can share out again. Two
n-grams in one place are one to the model; with 2,048 places and a text of 100 different n-grams,
about one n-gram in twenty has such a neighbour.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_WORD = re.compile(r"\w+|[^\w\s]")  # a word, or one sign: brackets and colons are half of code
# Knuth's multiplicative hashing, 2**32 / golden ratio (The Art of Computer Programming 3, 6.4).
_KNUTH = np.uint64(2654435761)
_LOW_32 = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class TextTransform:
    """A text classifier's preprocessing, whole; a model's `transforms.py` makes it once.

    Attributes:
        size: of the vector.
        words: the longest n-gram, in words; 2 counts words and pairs.
    """

    size: int = 2048
    words: int = 2

    def __call__(self, text: str) -> Tensor:
        """A text becomes float32 [size]: counts of its n-grams, of length 1 (zeros for no word).

        The same on every machine: CRC-32 of each word's UTF-8, and integers from there on.
        """
        counts = np.zeros(self.size)
        for buckets in self.buckets(self.split(text)):
            counts += np.bincount(buckets, minlength=self.size)
        norm = np.sqrt(np.square(counts).sum())
        return torch.from_numpy((counts / (norm or 1.0)).astype(np.float32))

    def example_input(self) -> Tensor:
        """The vector of an empty text, what a warm-up runs and an explanation starts from."""
        return torch.zeros(self.size)

    def split(self, text: str) -> list[str]:
        """The words of a text; a sign is one too."""
        return _WORD.findall(text)

    def buckets(self, words: list[str]) -> list[npt.NDArray[np.int64]]:
        """For n = 1, 2, ...: the place of the n-gram that begins at each word, [words - n + 1].

        An n-gram's hash is a polynomial of its words' CRC-32, modulo 2**32:
        h(w1 ... wn) = (h(w1 ... wn-1) * K + crc(wn)) * K, and its place is the middle of it.
        """
        crc = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64)
        found, hashed = [], np.zeros(len(words), dtype=np.uint64)
        for n in range(1, min(self.words, len(words)) + 1):
            last = crc[n - 1 :]
            hashed = (hashed[: len(last)] * _KNUTH + last) * _KNUTH & _LOW_32
            # The low bits of a product depend on low bits only, so the high ones are mixed in.
            mixed = hashed ^ (hashed >> np.uint64(15))
            found.append((mixed % np.uint64(self.size)).astype(np.int64))
        return found

    def distribute(self, words: list[str], values: Tensor) -> list[float]:
        """What each word of a text has of a vector's values, float32 [size]; the sum is kept.

        A place's value goes to the n-grams that count in it in equal parts (which cannot be told
        apart), an n-gram's to its words in equal parts.
        """
        buckets = self.buckets(words)
        counts = sum(np.bincount(p, minlength=self.size) for p in buckets)
        each = values.double().numpy() / np.maximum(counts, 1)
        shares = np.zeros(len(words))
        for n, of_n in enumerate(buckets, start=1):
            for offset in range(n):
                shares[offset : offset + len(of_n)] += each[of_n] / n
        found: list[float] = shares.tolist()
        return found
