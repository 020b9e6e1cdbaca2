"""Classification of the words of a text by a pretrained model: named entities, parts of speech."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions
from vestal_handlers.text.entities import PREDICTION_SCHEMA, STRATEGIES, Entities, EntityOptions


@dataclass(frozen=True, kw_only=True)
class TokenClassifierOptions(EntityOptions, PretrainedTextOptions):
    """The options of entities, and those of texts."""


class TokenClassifier(PretrainedText):
    """Predicts `{"entities": [{"label", "probability", "start", "end", "text"}]}`."""

    auto_class = "AutoModelForTokenClassification"
    options_type = TokenClassifierOptions
    options: TokenClassifierOptions
    token_outputs: ClassVar[Collection[str]] = ("logits",)

    def setup(self) -> None:
        super().setup()
        self.entities = Entities(self.tokenizer.tokenizer, self.model_config)

    def fields(self) -> dict[str, Any]:
        return {"aggregation_strategy": {"enum": list(STRATEGIES)}}

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        text, stride = request["text"], self.options.stride
        if stride is None:
            windows = [self.tokenizer.encode(text, truncate=request["truncate"])]
        else:
            windows = self.tokenizer.encode_windows(text, stride=stride)
        return ModelInputs([self.tokenizer.tensors(each) for each in windows], (text, windows))

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        text, windows = instance.sample.context
        own = self.options.aggregation_strategy
        strategy = instance.fields.get("aggregation_strategy", own)
        return {"entities": self.entities.find(text, windows, output, strategy)}

    def output_schema(self) -> dict[str, Any]:
        return PREDICTION_SCHEMA
