"""The base of all classifiers: outputs -> probabilities -> top-k labels; explanations."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vestal_handlers.base import BatchHandler
from vestal_handlers.errors import InputError
from vestal_handlers.labels import indices_by_label, labels_in, shared_labels
from vestal_handlers.options import number
from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema_parts import PROBABILITY, at_least_one
from vestal_handlers.tasks.explaining import Attribution, ExplainOptions, SampleT, attribute

logger = logging.getLogger(__name__)

TOP_K = at_least_one()
"""The field for the number of classes in a prediction; all classes if there are fewer."""


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(ExplainOptions):
    """
    Attributes:
        top_k: the number of classes in a prediction, unless the request has its own; all classes
            if there are fewer.
        threshold: the label is null if the best probability is below it; None: never.
        outputs: whether the model returns logits or probabilities, which are not changed.
    """

    top_k: int = number(3, at_least=1)
    threshold: float | None = number(None, at_least=0, at_most=1)
    outputs: Literal["logits", "probabilities"] = "logits"


class Classifier(BatchHandler):
    """Predicts `{"label", "index", "probability", "top": [...]}`, the best class first.

    `index` is the index of the class in the model's output, as two classes may share a label. `top`
    holds `{"label", "index", "probability"}` of each of the best classes.
    """

    options_type = ClassifierOptions
    options: ClassifierOptions

    def setup(self) -> None:
        names = json.loads((self.model_dir / "index_to_name.json").read_text("utf-8-sig"))
        self.labels = labels_in(names)
        self.indices = indices_by_label(self.labels)
        warning = shared_labels(self.labels)
        if warning:
            logger.info("warning: index_to_name.json: %s", warning)  # the worker logs all of INFO

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The model's outputs [..., classes] as probabilities, in fp32."""
        outputs = outputs.float()
        return outputs if self.options.outputs == "probabilities" else outputs.softmax(-1)

    def encode(self, output: Tensor, instance: Instance) -> dict[str, Any]:
        """`output`: logits or probabilities [classes]."""
        if len(output) != len(self.labels):
            raise ValueError(
                f"the model has {len(output)} outputs, but there are {len(self.labels)} labels in "
                "index_to_name.json"
            )
        count = int(instance.fields.get("top_k", self.options.top_k))
        best = torch.topk(self.probabilities(output), min(count, len(self.labels)))
        top = [
            {"label": self.labels[index], "index": index, "probability": probability}
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        prediction = {**top[0], "top": top}
        if self.options.threshold is not None and top[0]["probability"] < self.options.threshold:
            prediction["label"] = None
        return prediction

    def attribute(
        self, sample: SampleT, baseline: SampleT, instance: Instance
    ) -> tuple[dict[str, Any], Attribution[SampleT]]:
        """Return the prediction with the explained class, and the attributions.

        The probability of the payload's "target" is explained, or else that of the best class.

        Raises:
            InputError: 422, the target is the label of several classes.
        """
        prediction = self.encode(self.forward([sample])[0], instance)
        index = self._index_of(instance.fields.get("target", prediction["index"]))
        attribution = attribute(
            self.engine,
            sample,
            baseline,
            lambda outputs: self.probabilities(outputs)[:, index],
            device=self.device,
            n_steps=self.options.n_steps,
            deadline=self.deadline,
        )
        explained = {
            "target": self.labels[index],
            "target_index": index,
            "target_probability": attribution.score,
            "baseline_probability": attribution.baseline_score,
            "method": attribution.method,
        }
        return {**prediction, **explained}, attribution

    def _index_of(self, target: str | float) -> int:
        """The index of a target: a label, or an index."""
        if not isinstance(target, str):
            return int(target)
        first, *others = self.indices[target]
        if others:
            listed = ", ".join(map(str, (first, *others)))
            raise InputError(
                422,
                f"field 'target': {target!r} is the label of the classes {listed}; send an index",
            )
        return first

    def target_schema(self) -> dict[str, Any]:
        return {
            "anyOf": [self._index_schema(), {"enum": list(self.indices)}],
            "description": "the class to explain: its label or its index",
        }

    def _index_schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 0, "maximum": len(self.labels) - 1}

    def output_schema(self) -> dict[str, Any]:
        label, index = {"enum": list(self.indices)}, self._index_schema()
        one = {
            "type": "object",
            "properties": {"label": label, "index": index, "probability": PROBABILITY},
            "required": ["label", "index", "probability"],
        }
        best = label if self.options.threshold is None else {"enum": [*self.indices, None]}
        return {
            "type": "object",
            "properties": {
                "label": best,
                "index": index,
                "probability": PROBABILITY,
                "top": {"type": "array", "items": one, "minItems": 1},
            },
            "required": ["label", "index", "probability", "top"],
        }

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "labels": self.labels}
