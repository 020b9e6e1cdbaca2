"""Figures of a measurement: torchmetrics' over what was answered."""

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
from vestal.evaluation.asking import RefusedInput, Said
from vestal.recipes.objectives import Regression
from vestal.training.language import perplexity
from vestal.training.plots import draw_confusion, draw_predicted
from vestal_handlers.labels import indices_by_label

NO_ANSWER = "(none)"  # refused, or a label of null


@dataclass(frozen=True)
class ClassRow:
    """One class: of what was called so how much is it, of what is it how much was called so."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Confusion:
    """Counts by actual label (row) and predicted label (column); both are `labels`."""

    labels: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Classified:
    """Classes told right and wrong. A refused input counts as wrong.

    `undecided`: answers whose label was null, wrong too.
    """

    figures: dict[str, float]
    classes: list[ClassRow]
    confusion: Confusion
    undecided: int

    def draw(self, file: Path, title: str) -> None:
        draw_confusion(self.confusion.labels, self.confusion.counts, file, title)


@dataclass(frozen=True)
class Regressed:
    """Numbers beside the true ones [answered]."""

    figures: dict[str, float]
    actual: list[float]
    predicted: list[float]
    units: str

    def draw(self, file: Path, title: str) -> None:
        draw_predicted(self.actual, self.predicted, file, title, self.units)


@dataclass(frozen=True)
class Scored:
    """Passages of text; `tokens`: how many have a log-probability."""

    figures: dict[str, float]
    tokens: int

    def draw(self, file: Path, title: str) -> None:
        raise UsageError("perplexity is one number: there is nothing to draw (leave --plot out)")


Report = Classified | Regressed | Scored


def classified(said: Sequence[Said], targets: Sequence[int], labels: Sequence[str]) -> Classified:
    """Accuracy over all inputs, and each class.

    Args:
        said: labels, by name: a model may know more classes than a data set has, in any order.
            Of a name that several classes of the data set share, the answer's index decides.
        targets: indices into `labels`, the data set's.

    Raises:
        VestalError: no predicted label is one of the data set's.
    """
    labels, given_labels = _told_apart(labels), labels
    predicted = [_name(one, labels, given_labels) for one in said]
    others = sorted(set(predicted) - set(labels) - {NO_ANSWER})
    if others and not set(predicted) & set(labels):
        raise VestalError(
            f"the model says {_few(others)}, the data set has {_few(labels)}: its labels are of "
            "another data set (say which with --dataset)"
        )
    names = [*labels, *others, NO_ANSWER]
    place = {name: index for index, name in enumerate(names)}
    given = torch.tensor([place[name] for name in predicted])
    actual = torch.tensor(list(targets))
    count = len(names)
    # `given` is compared as classes, so a label outside the data set is wrong and nothing else.
    accuracy = MulticlassAccuracy(count, average="micro")(given, actual)
    by_class = [
        kind(count, average="none")(given, actual).tolist()
        for kind in (MulticlassPrecision, MulticlassRecall, MulticlassF1Score)
    ]
    matrix: Tensor = MulticlassConfusionMatrix(count)(given, actual)
    support = matrix.sum(1).tolist()
    rows = [
        ClassRow(name, *figures)
        for name, *figures in zip(labels, *by_class, support, strict=False)  # of the labels alone
    ]
    shown = [i for i in range(count) if i < len(labels) or int(matrix[:, i].sum())]
    confusion = Confusion([names[i] for i in shown], matrix[shown][:, shown].tolist())
    return Classified({"accuracy": float(accuracy)}, rows, confusion, sum(s is None for s in said))


def _told_apart(labels: Sequence[str]) -> list[str]:
    """The labels, with the index of each class whose label others have too: `crane (134)`."""
    classes = indices_by_label(labels)
    return [
        f"{label} ({index})" if len(classes[label]) > 1 else label
        for index, label in enumerate(labels)
    ]


def _name(said: Said, names: Sequence[str], labels: Sequence[str]) -> str:
    """A predicted label as one of `names`; without an index, a shared one means its first class."""
    if not isinstance(said, str):
        return NO_ANSWER
    index = getattr(said, "class_index", None)
    if not isinstance(index, int) or not 0 <= index < len(labels) or labels[index] != said:
        index = labels.index(said) if said in labels else None
    return str(said) if index is None else names[index]


def regressed(said: Sequence[Said], targets: Sequence[float], objective: Regression) -> Regressed:
    """R2, mean absolute and root mean squared error over the answered inputs."""
    pairs = [(s, float(t)) for s, t in zip(said, targets, strict=True) if isinstance(s, float)]
    if len(pairs) < 2:
        raise VestalError(f"R2 needs at least 2 answers, there are {len(pairs)}")
    predicted, actual = (list(column) for column in zip(*pairs, strict=True))
    figures = {
        name: float(metric(torch.tensor(predicted), torch.tensor(actual)))
        for name, metric in objective.metrics(None).items()
    }
    return Regressed(figures, actual, predicted, objective.units)


def scored(said: Sequence[Said]) -> Scored:
    """Perplexity over the tokens of all answered passages."""
    logprobs = [one for one in said if isinstance(one, list)]
    tokens = sum(map(len, logprobs))
    if not tokens:
        raise VestalError("no passage has two tokens or more: there is no perplexity")
    return Scored({"perplexity": perplexity(logprobs)}, tokens)


def refused(said: Sequence[Said]) -> list[dict[str, object]]:
    """The inputs without an answer, by their place in the test split."""
    return [
        {"index": i, **vars(one)} for i, one in enumerate(said) if isinstance(one, RefusedInput)
    ]


def _few(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
