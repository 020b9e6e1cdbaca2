"""Tabular regression: named numbers -> standardized as in training -> a number with units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vestal_handlers.base import BatchHandler
from vestal_handlers.errors import InputError
from vestal_handlers.model_files import load_transform
from vestal_handlers.requests.numerals import number_in
from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema import FLOAT32, validate
from vestal_handlers.tasks.explaining import ExplainOptions, attribute


@dataclass(frozen=True, kw_only=True)
class RegressorOptions(ExplainOptions):
    """
    Attributes:
        features: the names of the features, in the model's order.
        target: the name of the predicted value.
        units: the units of the predicted value, which every prediction contains.
    """

    features: list[str]
    target: str | None = None
    units: str | None = None


class Regressor(BatchHandler):
    """Predicts `{"prediction": number, "units": ...}` for a row of features by name or position."""

    options_type = RegressorOptions
    options: RegressorOptions
    rows_are_instances: ClassVar[bool] = True
    json_bodies: ClassVar[bool] = True

    def setup(self) -> None:
        self.transform: Callable[[Tensor], Tensor] = load_transform(
            self.model_dir, default=lambda row: row
        )

    def example_input(self) -> Tensor:
        return self.transform(torch.zeros(len(self.options.features)))

    def decode(self, instance: Instance) -> Tensor:
        """Decode a row to float32 [features], standardized."""
        row = instance.payload
        if instance.form and isinstance(row, dict):
            row = {name: _number_or_text(text) for name, text in row.items()}
        validate(row, self.input_schema(), "the row")
        values = [row[name] for name in self.options.features] if isinstance(row, dict) else row
        sample = self.transform(torch.tensor(values, dtype=torch.float32))
        if not torch.isfinite(sample).all():
            raise InputError(422, "the row is out of range; after standardization it is not finite")
        return sample

    def encode(self, output: Tensor, instance: Instance) -> dict[str, Any]:
        """`output`: float [] or [1]."""
        units = {} if self.options.units is None else {"units": self.options.units}
        return {"prediction": output.float().item(), **units}

    def explain(self, sample: Tensor, instance: Instance) -> dict[str, Any]:
        """Return the prediction and the contribution of each feature, in its units.

        The baseline is zero in the model's input: the mean row if the transform standardizes.
        """
        prediction = self.encode(self.forward([sample])[0], instance)
        if len(sample) != len(self.options.features):
            raise InputError(
                400,
                f"the transform of model {self.name} does not keep one value per feature, so "
                "predictions cannot be explained",
            )
        attribution = attribute(
            self.engine,
            sample,
            torch.zeros_like(sample),
            lambda outputs: outputs.float().reshape(len(outputs)),
            device=self.device,
            n_steps=self.options.n_steps,
            deadline=self.deadline,
        )
        names = zip(self.options.features, attribution.values.tolist(), strict=True)
        return {
            **prediction,
            "baseline_prediction": attribution.baseline_score,
            "method": attribution.method,
            "attributions": dict(names),
        }

    def input_schema(self) -> dict[str, Any]:
        names = self.options.features
        by_name = {
            "type": "object",
            "properties": dict.fromkeys(names, FLOAT32),
            "required": names,
            "additionalProperties": False,
        }
        by_position = {
            "type": "array",
            "prefixItems": [{"title": name, **FLOAT32} for name in names],
            "minItems": len(names),
            "maxItems": len(names),
        }
        return {"anyOf": [by_name, by_position]}

    def output_schema(self) -> dict[str, Any]:
        prediction = {"type": "number", "title": self.options.target or "prediction"}
        units = {} if self.options.units is None else {"units": {"enum": [self.options.units]}}
        return {
            "type": "object",
            "properties": {"prediction": prediction, **units},
            "required": ["prediction", *units],
        }

    def example(self) -> dict[str, float]:
        return dict.fromkeys(self.options.features, 0.0)


def _number_or_text(value: Any) -> Any:
    """Parse a number of a form; other values stay unchanged, and validation reports them."""
    number = number_in(value) if isinstance(value, str) else None
    return value if number is None else number
