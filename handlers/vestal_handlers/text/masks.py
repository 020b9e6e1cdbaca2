"""The masks of a text, and the words that are most probable in their places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.errors import InputError
from vestal_handlers.options import Options, number
from vestal_handlers.requests.schema_parts import PROBABILITY, TEXT, list_of, object_of

PREDICTION_SCHEMA = object_of(
    {
        "masks": list_of(
            object_of({"top": list_of(object_of({"word": TEXT} | {"probability": PROBABILITY}))})
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class MaskOptions(Options):
    """
    Attributes:
        top_k: the number of words for each mask, unless the request has its own.
        max_top_k: the maximum that a request may set.
        max_masks: masks of one text.
    """

    top_k: int = number(5, at_least=1)
    max_top_k: int = number(100, at_least=1)
    max_masks: int = number(16, at_least=1)


class Masks:
    """The mask token of a tokenizer.

    Raises:
        ValueError: the tokenizer has none.
    """

    def __init__(self, tokenizer: Any, options: MaskOptions) -> None:
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token")
        self.token = str(tokenizer.mask_token)
        self._tokenizer, self._most = tokenizer, options.max_masks

    def places(self, ids: Tensor) -> Tensor:
        """Where the masks are among token ids [T]: bool [T]."""
        return torch.eq(ids, self._tokenizer.mask_token_id)

    def check(self, ids: Tensor) -> None:
        """Raise InputError 422 if a text has no mask, or too many."""
        count = int(self.places(ids).sum())
        if not 0 < count <= self._most:
            raise InputError(
                422,
                f"the text has {count} masks, expected 1 to {self._most}: write {self.token} in "
                "the place of a word",
            )

    def words(self, logits: Tensor, count: int) -> list[list[dict[str, Any]]]:
        """The most probable words for each mask.

        Args:
            logits: [masks, vocabulary].
        """
        best = logits.softmax(-1).topk(min(count, logits.shape[-1]))
        return [
            [
                {"word": self._tokenizer.decode([token]).strip(), "probability": value}
                for value, token in zip(values, tokens, strict=True)
            ]
            for values, tokens in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
