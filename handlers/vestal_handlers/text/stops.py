"""Finds the stop strings of one request in a text that grows token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What lossy UTF-8 decoding gives for a character whose bytes are not all there.
REPLACEMENT = "\ufffd"


class StopMatcher:
    """Asked after each token with all tokens so far; decodes but the last few of them.

    Between whole characters a text can be cut: what stands before is decoded no more, only its end
    is kept, as long as a stop string that began there. The tokens before the cut are decoded along
    with the new ones, as some tokenizers write a text's first token without its space.

    Args:
        strings: not empty, each of at least one character.
        decode: token ids to text, incomplete characters as U+FFFD.
    """

    def __init__(self, strings: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        self._strings, self._decode = strings, decode
        self._kept = max(map(len, strings)) - 1
        self._end = ""  # of the text before the cut
        self._before = self._cut = 0  # tokens[_before:_cut] are decoded along

    def __call__(self, tokens: list[int]) -> bool:
        """Whether a stop string is in the text of these tokens; not asked again once it is."""
        known = len(self._decode(tokens[self._before : self._cut]))
        new = self._decode(tokens[self._before :])[known:]
        text = self._end + new
        whole = text.rstrip(REPLACEMENT)
        if any(string in whole for string in self._strings):
            return True
        if new and not new.endswith(REPLACEMENT):
            self._end = text[-self._kept :] if self._kept else ""
            self._before, self._cut = self._cut, len(tokens)
        return False
