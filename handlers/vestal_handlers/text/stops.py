"""Find the stop strings of one request in a text that grows token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# The result of lossy UTF-8 decoding for an incomplete character.
REPLACEMENT = "\ufffd"


class StopMatcher:
    """Called after each token with all tokens so far; decodes only the last few of them.

    The text is cut after a complete character. The part before the cut is not decoded again; only
    its end is kept, because a stop string may begin there. Some tokens before the cut are decoded
    together with the new ones, because some tokenizers omit the space of the first token.

    Args:
        strings: at least one string, each of at least one character.
        decode: token ids to text, incomplete characters as U+FFFD.
    """

    def __init__(self, strings: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        self._strings, self._decode = strings, decode
        self._kept = max(map(len, strings)) - 1
        self._end = ""  # the end of the text before the cut
        self._before = self._cut = 0  # tokens[_before:_cut] are decoded with the new ones

    def __call__(self, tokens: list[int]) -> bool:
        """Whether the text of these tokens contains a stop string; not called again after True."""
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
