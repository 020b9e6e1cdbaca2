"""The entities of a text, by the class of each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from tokenizers import Encoding
from torch import Tensor
from transformers import TokenClassificationPipeline
from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer
from transformers.pipelines.token_classification import AggregationStrategy

from vestal_handlers.options import Options, number
from vestal_handlers.requests.schema_parts import COUNT, PROBABILITY, TEXT, list_of, object_of

Strategy = Literal["none", "simple", "first", "average", "max"]
STRATEGIES = get_args(Strategy)
_FIELDS = {"label": TEXT, "probability": PROBABILITY, "start": COUNT, "end": COUNT, "text": TEXT}
PREDICTION_SCHEMA = object_of({"entities": list_of(object_of(_FIELDS))})


@dataclass(frozen=True, kw_only=True)
class EntityOptions(Options):
    """
    Attributes:
        aggregation_strategy: how tokens become entities, as in transformers, unless the request
            has its own.
        stride: tokens that two windows of a long text share; None: `truncate` decides.
    """

    aggregation_strategy: Strategy = "simple"
    stride: int | None = number(None, at_least=0)


class Entities:
    """The last step of transformers' pipeline, without its own model and loading."""

    def __init__(self, tokenizer: Any, config: Any) -> None:
        pipeline = object.__new__(TokenClassificationPipeline)
        pipeline.tokenizer = tokenizer
        pipeline.model = SimpleNamespace(config=config)  # type: ignore[assignment]
        pipeline._basic_tokenizer = BasicTokenizer(  # type: ignore[no-untyped-call]
            do_lower_case=False
        )
        self._pipeline = pipeline

    def find(
        self, text: str, windows: Sequence[Encoding], logits: Sequence[Tensor], strategy: Strategy
    ) -> list[dict[str, Any]]:
        """Find the entities of a text, in its order.

        Args:
            windows: the tokens of the text, or of its parts.
            logits: [T, classes] of each window.
        """
        outputs = [
            {
                "logits": scores[None],
                "input_ids": torch.tensor([window.ids]),
                "offset_mapping": torch.tensor([window.offsets]),
                "special_tokens_mask": torch.tensor([window.special_tokens_mask]),
                "sentence": text,
            }
            for scores, window in zip(logits, windows, strict=True)
        ]
        found = self._pipeline.postprocess(  # type: ignore[no-untyped-call]
            outputs, aggregation_strategy=AggregationStrategy(strategy)
        )
        return [_entity(each, text) for each in found]


def _entity(found: dict[str, Any], text: str) -> dict[str, Any]:
    start, end = int(found["start"]), int(found["end"])
    return {
        "label": found.get("entity_group") or found["entity"],
        "probability": float(found["score"]),
        "start": start,
        "end": end,
        "text": text[start:end],
    }
