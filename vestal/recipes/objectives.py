"""Objectives: the loss that a training minimizes, and the metrics that it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    # Its import takes longer than torch's, and packing and serving do not need it.
    from torchmetrics import Metric

    Metrics = dict[str, Metric]


class Objective(Protocol):
    """The loss and metrics for one kind of target."""

    @property
    def main_metric(self) -> str:
        """Name of the metric that is shown during training and in comparisons."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean loss of a batch, from the module's outputs and the targets [N, ...]."""

    def metrics(self, labels: Sequence[str] | None) -> Metrics:
        """New metrics by name; update each with (`predicted(outputs)`, targets)."""

    def predicted(self, outputs: Any) -> Tensor:
        """The input of the metrics, computed from the module's outputs."""


@dataclass(frozen=True)
class Classification:
    """Cross entropy; accuracy over all examples.

    `outputs`: kind of the module's outputs [N, classes], as in the handler's option `outputs`.
    """

    outputs: Literal["logits", "probabilities"] = "logits"
    main_metric: str = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.outputs == "probabilities":
            # A probability that was rounded to 0 would give an infinite loss.
            return nn.functional.nll_loss(outputs.clamp_min(1e-7).log(), targets)
        return nn.functional.cross_entropy(outputs, targets)

    def metrics(self, labels: Sequence[str] | None) -> Metrics:
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(len(labels or ()), average="micro")}

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs


@dataclass(frozen=True)
class Regression:
    """Mean squared error of one number; R2, mean absolute error, root mean squared error.

    `units`: units of the target, shown in plots and responses.
    """

    units: str = ""
    main_metric: str = "r2"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.predicted(outputs), targets)

    def metrics(self, labels: Sequence[str] | None) -> Metrics:
        from torchmetrics import MeanAbsoluteError, MeanSquaredError, R2Score

        return {
            "r2": R2Score(),
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
        }

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(len(outputs))


@dataclass(frozen=True)
class NextToken:
    """Cross entropy of the next token; perplexity is its exponential.

    The module is a causal language model of transformers: token ids [N, T] to `.logits`
    [N, T, vocabulary]; targets are the ids one position later [N, T].

    Attributes:
        context: number of tokens in a training example.
    """

    context: int
    main_metric: str = "perplexity"

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten())

    def metrics(self, labels: Sequence[str] | None) -> Metrics:
        from torchmetrics.text import Perplexity

        return {"perplexity": Perplexity()}

    def predicted(self, outputs: Any) -> Tensor:
        logits: Tensor = outputs.logits
        return logits
