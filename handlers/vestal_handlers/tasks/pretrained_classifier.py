"""The predictions of pretrained classifiers: one label, several labels, or a number."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.classifier import Classifier

_LIKELY = 0.5
"""Probability from which a label of a multi-label model is predicted, without a `threshold`."""


class PretrainedClassifier(Classifier):
    """Predicts by `problem_type` in config.json: as `Classifier`; `{"labels", "top"}` if an input
    may have several labels; `{"prediction": number}` for a regression."""

    model_config: Any

    def probabilities(self, outputs: Tensor) -> Tensor:
        independent = self._is("multi_label_classification") or len(self.labels) == 1
        return outputs.float().sigmoid() if independent else outputs.float().softmax(-1)

    def encode(self, output: Tensor, instance: Instance) -> dict[str, Any]:
        if self._is("regression"):
            values = output.tolist()
            return {"prediction": values[0] if len(values) == 1 else values}
        prediction = super().encode(output, instance)
        if not self._is("multi_label_classification"):
            return prediction
        least = _LIKELY if self.options.threshold is None else self.options.threshold
        values = self.probabilities(output).tolist()
        best = sorted(range(len(values)), key=lambda index: -values[index])
        likely = [self.labels[index] for index in best if values[index] >= least]
        return {"labels": likely, "top": prediction["top"]}

    def output_schema(self) -> dict[str, Any]:
        schema = super().output_schema()
        if self._is("regression"):
            numbers = {"type": "array", "items": {"type": "number"}}
            fields: dict[str, Any] = {"prediction": {"anyOf": [{"type": "number"}, numbers]}}
        elif self._is("multi_label_classification"):
            names = {"type": "array", "items": {"enum": list(self.indices)}}
            fields = {"labels": names, "top": schema["properties"]["top"]}
        else:
            return schema
        return {"type": "object", "properties": fields, "required": list(fields)}

    def _is(self, problem_type: str) -> bool:
        return bool(self.model_config.problem_type == problem_type)
