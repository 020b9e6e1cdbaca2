"""Reports of an evaluation: metrics of predictions, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from vestal.errors import UsageError, VestalError
from vestal.evaluation.predictions import Outcome, RefusedInput
from vestal.recipes.objectives import Regression
from vestal.training.language import perplexity
from vestal.training.plots import draw_confusion, draw_predicted
from vestal_handlers.labels import indices_by_label

NO_LABEL = "(none)"  # for refused inputs and predictions whose label is null


@dataclass(frozen=True)
class ClassRow:
    """Metrics of one class; `support`: the number of its inputs."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: counts by actual label (row) and predicted label (column)."""

    labels: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class ClassificationReport:
    """Accuracy and metrics by class. Refused inputs count as wrong.

    `undecided`: number of predictions whose label is null; they count as wrong, too.
    """

    metrics: dict[str, float]
    classes: list[ClassRow]
    confusion: Confusion
    undecided: int

    def draw(self, file: Path, title: str) -> None:
        draw_confusion(self.confusion.labels, self.confusion.counts, file, title)


@dataclass(frozen=True)
class RegressionReport:
    """Predicted and actual numbers, without refused inputs."""

    metrics: dict[str, float]
    actual: list[float]
    predicted: list[float]
    units: str

    def draw(self, file: Path, title: str) -> None:
        draw_predicted(self.actual, self.predicted, file, title, self.units)


@dataclass(frozen=True)
class PerplexityReport:
    """Perplexity of passages; `tokens`: number of tokens with a log-probability."""

    metrics: dict[str, float]
    tokens: int

    def draw(self, file: Path, title: str) -> None:
        raise UsageError("perplexity is one number, so there is nothing to draw; leave out --plot")


Report = ClassificationReport | RegressionReport | PerplexityReport


def classification_report(
    outcomes: Sequence[Outcome], targets: Sequence[int], labels: Sequence[str]
) -> ClassificationReport:
    """Accuracy over all inputs, and metrics of each class.

    Args:
        outcomes: labels by name, as a model may have more classes than the data set, in any order.
            If classes of the data set share a label, the index of the prediction decides.
        targets: indices into `labels`, the labels of the data set.

    Raises:
        VestalError: no predicted label is a label of the data set.
    """
    labels, original_labels = _unique_names(labels), labels
    predicted = [_name(outcome, labels, original_labels) for outcome in outcomes]
    others = sorted(set(predicted) - set(labels) - {NO_LABEL})
    if others and not set(predicted) & set(labels):
        raise VestalError(
            f"the model predicts {_few(others)}, but the data set has {_few(labels)}: pass the "
            "data set of the model with --dataset"
        )
    names = [*labels, *others, NO_LABEL]
    place = {name: index for index, name in enumerate(names)}
    predictions = torch.tensor([place[name] for name in predicted])
    actual = torch.tensor(list(targets))
    count = len(names)
    # A label outside the data set is a class of its own, so it counts as wrong.
    accuracy = MulticlassAccuracy(count, average="micro")(predictions, actual)
    by_class = [
        kind(count, average="none")(predictions, actual).tolist()
        for kind in (MulticlassPrecision, MulticlassRecall, MulticlassF1Score)
    ]
    matrix: Tensor = MulticlassConfusionMatrix(count)(predictions, actual)
    support = matrix.sum(1).tolist()
    rows = [
        ClassRow(name, *values)
        for name, *values in zip(labels, *by_class, support, strict=False)  # without `others`
    ]
    shown = [i for i in range(count) if i < len(labels) or int(matrix[:, i].sum())]
    confusion = Confusion([names[i] for i in shown], matrix[shown][:, shown].tolist())
    undecided = sum(outcome is None for outcome in outcomes)
    return ClassificationReport({"accuracy": float(accuracy)}, rows, confusion, undecided)


def _unique_names(labels: Sequence[str]) -> list[str]:
    """The labels; classes that share a label get their index, such as `crane (134)`."""
    classes = indices_by_label(labels)
    return [
        f"{label} ({index})" if len(classes[label]) > 1 else label
        for index, label in enumerate(labels)
    ]


def _name(outcome: Outcome, names: Sequence[str], labels: Sequence[str]) -> str:
    """A predicted label as one of `names`; without an index, the first class of that label."""
    if not isinstance(outcome, str):
        return NO_LABEL
    index = getattr(outcome, "class_index", None)
    if not isinstance(index, int) or not 0 <= index < len(labels) or labels[index] != outcome:
        index = labels.index(outcome) if outcome in labels else None
    return str(outcome) if index is None else names[index]


def regression_report(
    outcomes: Sequence[Outcome], targets: Sequence[float], objective: Regression
) -> RegressionReport:
    """R2, mean absolute error and root mean squared error, without refused inputs."""
    pairs = [(o, float(t)) for o, t in zip(outcomes, targets, strict=True) if isinstance(o, float)]
    if len(pairs) < 2:
        raise VestalError(f"R2 requires at least 2 predictions, got {len(pairs)}")
    predicted, actual = (list(column) for column in zip(*pairs, strict=True))
    metrics = {
        name: float(metric(torch.tensor(predicted), torch.tensor(actual)))
        for name, metric in objective.metrics(None).items()
    }
    return RegressionReport(metrics, actual, predicted, objective.units)


def perplexity_report(outcomes: Sequence[Outcome]) -> PerplexityReport:
    """Perplexity over the tokens of all passages, without refused ones."""
    logprobs = [outcome for outcome in outcomes if isinstance(outcome, list)]
    tokens = sum(map(len, logprobs))
    if not tokens:
        raise VestalError("perplexity requires a passage of at least two tokens, and there is none")
    return PerplexityReport({"perplexity": perplexity(logprobs)}, tokens)


def refused_inputs(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """The refused inputs, with their indices in the test split."""
    return [
        {"index": index, **vars(outcome)}
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, RefusedInput)
    ]


def _few(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
