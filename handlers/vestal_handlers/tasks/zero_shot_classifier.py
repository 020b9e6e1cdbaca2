"""Classification of a text by labels that the request names, with a model for entailment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.errors import InputError
from vestal_handlers.options import number
from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions


@dataclass(frozen=True, kw_only=True)
class ZeroShotClassifierOptions(PretrainedTextOptions):
    """
    Attributes:
        labels: the only labels that requests may name, and those of a request that names none.
        max_labels: labels of one request; each takes one row of a forward pass.
        hypothesis: the sentence about a label, in place of `{}`.
    """

    labels: list[str] | None = None
    max_labels: int = number(50, at_least=1)
    hypothesis: str = "This example is {}."


class ZeroShotClassifier(PretrainedText):
    """Predicts `{"label", "probability", "top": [{"label", "probability"}]}`, the best first.

    With `"multi_label": true`, each label has a probability of its own.
    """

    auto_class = "AutoModelForSequenceClassification"
    options_type = ZeroShotClassifierOptions
    options: ZeroShotClassifierOptions

    def setup(self) -> None:
        super().setup()
        labels = {label.lower(): index for label, index in self.model_config.label2id.items()}
        found = [index for label, index in labels.items() if label.startswith("entail")]
        if not found:
            raise ValueError(f"the model has no label for entailment, only {', '.join(labels)}")
        if "{}" not in self.options.hypothesis:
            raise ValueError("handler.hypothesis needs {} in the place of the label")
        self.entailment = int(found[0])
        self.contradiction = -1 if self.entailment == 0 else 0

    def fields(self) -> dict[str, Any]:
        own, most = self.options.labels, self.options.max_labels
        item: dict[str, Any] = {"type": "string", "minLength": 1} if own is None else {"enum": own}
        return {
            "text": {"type": "string"},
            "labels": {"type": "array", "items": item, "minItems": 1, "maxItems": most},
            "hypothesis": {"type": "string"},
            "multi_label": {"type": "boolean"},
        }

    def required(self) -> list[str]:
        return ["text", "labels"] if self.options.labels is None else ["text"]

    def example(self) -> dict[str, Any]:
        labels = self.options.labels or ["an animal", "a machine"]
        return {**super().example(), "labels": labels[: self.options.max_labels]}

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        labels: list[str] = request.get("labels") or self.options.labels or []
        hypothesis = request.get("hypothesis", self.options.hypothesis)
        if "{}" not in hypothesis:
            raise InputError(422, "field 'hypothesis' needs {} in the place of the label")
        texts = [hypothesis.replace("{}", label) for label in labels]
        text, truncate = request["text"], request["truncate"]
        encodings = [self.tokenizer.encode(text, pair, truncate=truncate) for pair in texts]
        context = labels, request.get("multi_label", False)
        return ModelInputs([self.tokenizer.tensors(each) for each in encodings], context)

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        labels, multi_label = instance.sample.context
        logits = torch.stack(output)
        if multi_label or len(labels) == 1:
            pair = logits[:, [self.contradiction, self.entailment]]
            values = pair.softmax(-1)[:, 1].tolist()
        else:
            values = logits[:, self.entailment].softmax(0).tolist()
        ranked = sorted(zip(labels, values, strict=True), key=lambda each: -each[1])
        top = [{"label": label, "probability": value} for label, value in ranked]
        return {**top[0], "top": top}
