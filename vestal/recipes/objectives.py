"""What a training makes smaller, and the figures that people read: one class a kind of target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    # Its import takes longer than torch's: who packs or serves a recipe's model does not wait.
    from torchmetrics import Metric

    Metrics = dict[str, Metric]


class Objective(Protocol):
    """A loss and its figures."""

    @property
    def figure(self) -> str:
        """The name of the figure that stands for the others."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean loss of a batch: what the module gave, and the targets [N, ...]."""

    def metrics(self, labels: Sequence[str] | None) -> Metrics:
        """Fresh figures by name; each is updated with (`predicted(outputs)`, targets)."""

    def predicted(self, outputs: Any) -> Tensor:
        """What the figures look at."""


@dataclass(frozen=True)
class Classification:
    """Cross entropy; accuracy over all examples.

    `outputs`: what the module gives [N, classes]; the handler's option of the same name.
    """

    outputs: Literal["logits", "probabilities"] = "logits"
    figure: str = "accuracy"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.outputs == "probabilities":
            # A probability that rounded to 0 must not give an infinite loss.
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

    `units`: of the target, for people.
    """

    units: str = ""
    figure: str = "r2"

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
    """Cross entropy of every next token; perplexity is its exponential.

    The module is a causal language model of transformers: token ids [N, T] to `.logits`
    [N, T, vocabulary]; targets are the ids one further on [N, T].

    Attributes:
        context: tokens in one training example.
    """

    context: int
    figure: str = "perplexity"

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten())

    def metrics(self, labels: Sequence[str] | None) -> Metrics:
        from torchmetrics.text import Perplexity

        return {"perplexity": Perplexity()}

    def predicted(self, outputs: Any) -> Tensor:
        logits: Tensor = outputs.logits
        return logits
