"""What every classifier shares: outputs -> probabilities -> the k best labels, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vestal_handlers.base import BatchHandler
from vestal_handlers.explaining import Attribution, ExplainOptions, attribute
from vestal_handlers.options import number
from vestal_handlers.request import Instance

PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(ExplainOptions):
    """
    Attributes:
        top_k: how many classes an answer names; all, where the model has fewer.
        threshold: a best probability below it gives the label null; None: there is always one.
        outputs: what the model gives; probabilities are taken as they are.
    """

    top_k: int = number(3, at_least=1)
    threshold: float | None = number(None, at_least=0, at_most=1)
    outputs: Literal["logits", "probabilities"] = "logits"


class Classifier(BatchHandler):
    """Answers `{"label", "probability", "top": [{"label", "probability"}, ...]}`, best first."""

    options_type = ClassifierOptions
    options: ClassifierOptions

    def setup(self) -> None:
        names = json.loads((self.model_dir / "index_to_name.json").read_text("utf-8-sig"))
        self.labels = [names[str(index)] for index in range(len(names))]

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The model's outputs [..., classes] as probabilities, in fp32."""
        outputs = outputs.float()
        return outputs if self.options.outputs == "probabilities" else outputs.softmax(-1)

    def encode(self, output: Tensor, instance: Instance) -> dict[str, Any]:
        """`output`: logits or probabilities [classes]."""
        if len(output) != len(self.labels):
            raise ValueError(f"{len(output)} outputs, but {len(self.labels)} labels")
        best = torch.topk(self.probabilities(output), min(self.options.top_k, len(self.labels)))
        top = [
            {"label": self.labels[index], "probability": probability}
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        answer = {**top[0], "top": top}
        if self.options.threshold is not None and top[0]["probability"] < self.options.threshold:
            answer["label"] = None
        return answer

    def attribute(
        self, sample: Tensor, baseline: Tensor, instance: Instance
    ) -> tuple[dict[str, Any], Attribution]:
        """The answer, with what is explained of it, and the attributions.

        Explained is the probability of the payload's "target", or else of the best class.
        """
        answer = self.encode(self.forward([sample])[0], instance)
        asked = instance.payload if isinstance(instance.payload, dict) else {}
        target = asked.get("target", answer["top"][0]["label"])
        index = self.labels.index(target)
        found = attribute(
            self.engine,
            sample,
            baseline,
            lambda outputs: self.probabilities(outputs)[:, index],
            device=self.device,
            n_steps=self.options.n_steps,
            until=self.until,
        )
        explained = {
            "target": target,
            "target_probability": found.score,
            "baseline_probability": found.baseline_score,
            "method": found.method,
        }
        return {**answer, **explained}, found

    def target_schema(self) -> dict[str, Any]:
        return {"enum": self.labels, "description": "the class that an explanation is about"}

    def output_schema(self) -> dict[str, Any]:
        label = {"enum": self.labels}
        one = {
            "type": "object",
            "properties": {"label": label, "probability": PROBABILITY},
            "required": ["label", "probability"],
        }
        least = label if self.options.threshold is None else {"enum": [*self.labels, None]}
        return {
            "type": "object",
            "properties": {
                "label": least,
                "probability": PROBABILITY,
                "top": {"type": "array", "items": one, "minItems": 1},
            },
            "required": ["label", "probability", "top"],
        }

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "labels": self.labels}
