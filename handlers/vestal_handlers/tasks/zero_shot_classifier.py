"""Classification of a text by labels that the request names, with a model for entailment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema_parts import SWITCH, TEXT
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions
from vestal_handlers.text.entailment import PREDICTION_SCHEMA, Entailment, EntailmentOptions


@dataclass(frozen=True, kw_only=True)
class ZeroShotClassifierOptions(EntailmentOptions, PretrainedTextOptions):
    """The options of candidate labels, and those of texts."""


class ZeroShotClassifier(PretrainedText):
    """Predicts `{"label", "probability", "top": [{"label", "probability"}]}`, the best first."""

    auto_class = "AutoModelForSequenceClassification"
    options_type = ZeroShotClassifierOptions
    options: ZeroShotClassifierOptions

    def setup(self) -> None:
        super().setup()
        self.entailment = Entailment(self.model_config.label2id, self.options)

    def fields(self) -> dict[str, Any]:
        labels = self.entailment.labels_schema()
        return {"candidate_labels": labels, "multi_label": SWITCH, "hypothesis_template": TEXT}

    def required(self) -> list[str]:
        return ["text"] if self.options.candidate_labels else ["text", "candidate_labels"]

    def example(self) -> dict[str, Any]:
        labels = self.options.candidate_labels or ["an animal", "a machine"]
        return {**super().example(), "candidate_labels": labels[: self.options.max_labels]}

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        labels, sentences = self.entailment.hypotheses(request)
        text, truncate = request["text"], request["truncate"]
        encodings = [self.tokenizer.encode(text, each, truncate=truncate) for each in sentences]
        return ModelInputs([self.tokenizer.tensors(each) for each in encodings], labels)

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        multi_label = instance.fields.get("multi_label", False)
        top = self.entailment.ranked(instance.sample.context, torch.stack(output), multi_label)
        return {**top[0], "top": top}

    def output_schema(self) -> dict[str, Any]:
        return PREDICTION_SCHEMA
