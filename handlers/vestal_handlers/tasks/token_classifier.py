"""Classification of the words of a text by a pretrained model: named entities, parts of speech."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TokenClassificationPipeline
from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer
from transformers.pipelines.token_classification import AggregationStrategy

from vestal_handlers.options import number
from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.classifier import PROBABILITY
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions


@dataclass(frozen=True, kw_only=True)
class TokenClassifierOptions(PretrainedTextOptions):
    """
    Attributes:
        aggregation: how tokens become entities, as `aggregation_strategy` of transformers.
        stride: tokens that two windows of a long text share; None: `truncate` decides.
    """

    aggregation: Literal["none", "simple", "first", "average", "max"] = "simple"
    stride: int | None = number(None, at_least=0)


class TokenClassifier(PretrainedText):
    """Predicts `{"entities": [{"label", "probability", "start", "end", "text"}]}`."""

    auto_class = "AutoModelForTokenClassification"
    options_type = TokenClassifierOptions
    options: TokenClassifierOptions

    def setup(self) -> None:
        super().setup()
        # Its last step, without its own model and loading.
        pipeline = object.__new__(TokenClassificationPipeline)
        pipeline.tokenizer = self.tokenizer.tokenizer
        pipeline.model = SimpleNamespace(config=self.model_config)  # type: ignore[assignment]
        pipeline._basic_tokenizer = BasicTokenizer(  # type: ignore[no-untyped-call]
            do_lower_case=False
        )
        self.pipeline = pipeline

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        text, stride = request["text"], self.options.stride
        if stride is None:
            encodings = [self.tokenizer.encode(text, truncate=request["truncate"])]
        else:
            encodings = self.tokenizer.encode_windows(text, stride=stride)
        return ModelInputs([self.tokenizer.tensors(each) for each in encodings], (text, encodings))

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        text, encodings = instance.sample.context
        outputs = [
            {
                "logits": logits[None],
                "input_ids": torch.tensor([each.ids]),
                "offset_mapping": torch.tensor([each.offsets]),
                "special_tokens_mask": torch.tensor([each.special_tokens_mask]),
                "sentence": text,
            }
            for logits, each in zip(output, encodings, strict=True)
        ]
        strategy = AggregationStrategy(self.options.aggregation)
        found = self.pipeline.postprocess(  # type: ignore[no-untyped-call]
            outputs, aggregation_strategy=strategy
        )
        return {"entities": [_entity(each, text) for each in found]}

    def output_schema(self) -> dict[str, Any]:
        place = {"type": "integer", "minimum": 0}
        fields = {"label": {"type": "string"}, "probability": PROBABILITY}
        fields |= {"start": place, "end": place, "text": {"type": "string"}}
        entity = {"type": "object", "properties": fields, "required": list(fields)}
        return {"type": "object", "properties": {"entities": {"type": "array", "items": entity}}}


def _entity(found: dict[str, Any], text: str) -> dict[str, Any]:
    start, end = int(found["start"]), int(found["end"])
    return {
        "label": found.get("entity_group") or found["entity"],
        "probability": float(found["score"]),
        "start": start,
        "end": end,
        "text": text[start:end],
    }
