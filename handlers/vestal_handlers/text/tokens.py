"""Texts to the token ids of a pretrained model, within its limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from tokenizers import Encoding
from torch import Tensor

from vestal_handlers.errors import InputError

Truncate = Literal["error", "right", "left"]
"""What happens to a text that is too long: an error, or its right or left end is cut off."""
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Inputs of a model, and the attributes of an `Encoding` that hold them."""


def check_unicode(text: str, what: str) -> None:
    """Raise InputError 400 for a lone surrogate; the tokenizer's own message is unclear."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(400, f"{what} is not Unicode (lone surrogate)") from None


@dataclass(frozen=True)
class TextTokenizer:
    """The tokenizer of a pretrained model.

    Attributes:
        tokenizer: a fast tokenizer of transformers; threads may share it, because its settings for
            padding and truncation never change.
        limit: tokens of one input, special ones included.
        limit_name: where the limit comes from, for messages.
        inputs: names of the model's inputs.
    """

    tokenizer: Any
    limit: int
    limit_name: str
    inputs: frozenset[str]

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        truncate: Truncate = "error",
        what: str = "the text",
    ) -> Encoding:
        """Tokenize a text, or a pair of texts of which only the first may be truncated.

        Raises:
            InputError: 400 not Unicode, 413 too long, 422 no tokens.
        """
        first, second = self._split(text, what), None if pair is None else self._split(pair, what)
        room = self._room(first, second, what, cut=truncate != "error")
        if room is not None:
            first.truncate(room, direction="left" if truncate == "left" else "right")
        encoding: Encoding = self.tokenizer.backend_tokenizer.post_process(first, second)
        return encoding

    def encode_windows(
        self, text: str, before: str | None = None, *, stride: int, what: str = "the text"
    ) -> list[Encoding]:
        """Tokenize a text into windows within the limit; two neighbours share `stride` tokens.

        Args:
            before: a text that stands before each window.

        Raises:
            InputError: as `encode`.
        """
        body, head = self._split(text, what), None if before is None else self._split(before, what)
        room = self._room(body, head, what, cut=True, least=stride + 1)
        pieces = [body]
        if room is not None:
            body.truncate(room, stride=stride)
            pieces += body.overflowing
        join = self.tokenizer.backend_tokenizer.post_process
        return [join(each) if head is None else join(head, each) for each in pieces]

    def _split(self, text: str, what: str) -> Encoding:
        check_unicode(text, what)
        encoding: Encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return encoding

    def _room(
        self, text: Encoding, other: Encoding | None, what: str, *, cut: bool, least: int = 1
    ) -> int | None:
        """The number of tokens to which a text must be cut; None if it may stay as it is.

        Args:
            cut: whether it may be cut.
            least: tokens that must be left.
        """
        backend = self.tokenizer.backend_tokenizer
        others: int = backend.num_special_tokens_to_add(other is not None)
        others += 0 if other is None else len(other)
        count = len(text) + others
        if not count:
            raise InputError(422, f"{what} has no tokens")
        if count <= self.limit:
            return None
        message = f"{what} has {count:,} tokens, at most {self.limit:,} ({self.limit_name})"
        if self.limit - others < least:
            raise InputError(413, f"{message}: shorten what stands beside it ({others:,} tokens)")
        if not cut:
            raise InputError(
                413, f"{message}: shorten it, or send truncate: right (or left) to cut off that end"
            )
        return self.limit - others

    def tensors(self, encoding: Encoding) -> dict[str, Tensor]:
        """The inputs of the model, int64 [T] each."""
        return {
            name: torch.tensor(getattr(encoding, attribute), dtype=torch.int64)
            for name, attribute in INPUTS.items()
            if name in self.inputs
        }
