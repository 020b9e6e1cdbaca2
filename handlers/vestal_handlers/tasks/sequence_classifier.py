"""Classification of a text, or of a pair of texts, by a pretrained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.classifier import TOP_K, ClassifierOptions
from vestal_handlers.tasks.pretrained_classifier import PretrainedClassifier
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions


@dataclass(frozen=True, kw_only=True)
class SequenceClassifierOptions(ClassifierOptions, PretrainedTextOptions):
    """The options of a classifier, and those of texts."""


class SequenceClassifier(PretrainedText, PretrainedClassifier):
    """Classifies `text`, or `text` and `text_pair`."""

    auto_class = "AutoModelForSequenceClassification"
    options_type = SequenceClassifierOptions
    options: SequenceClassifierOptions
    texts: ClassVar[Sequence[str]] = ("text", "text_pair")

    def fields(self) -> dict[str, Any]:
        return {"top_k": TOP_K}

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        pair = request.get("text_pair")
        encoding = self.tokenizer.encode(request["text"], pair, truncate=request["truncate"])
        return ModelInputs([self.tokenizer.tensors(encoding)])

    def encode(self, output: Any, instance: Instance) -> dict[str, Any]:
        return super().encode(output[0], instance)
