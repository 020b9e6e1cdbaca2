"""Measures a model on its recipe's test split, wherever it stands, by the same figures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.evaluation import reports
from vestal.evaluation.asking import Progress, target_at
from vestal.evaluation.reports import Classified, Report
from vestal.evaluation.sources import Source
from vestal.recipes.objectives import Classification, Regression
from vestal.recipes.recipe import Recipe, Splits


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One measurement.

    Attributes:
        kind: who was asked: "weights", "archive" or "server"; `place` says where.
        size: inputs of the test split; `refused` of them got no answer.
        seconds: from the first input to the last answer, loading included.
    """

    model: str
    kind: str
    place: str
    version: str | None
    dataset: str
    size: int
    seconds: float
    refused: list[dict[str, Any]]
    report: Report

    @property
    def title(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"{self.model}{version} ({self.kind}) on {self.dataset}"

    def draw(self, file: Path) -> None:
        """Draws the confusion matrix, or predicted against actual.

        Raises:
            UsageError: a language model, of which there is nothing to draw.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        self.report.draw(file, self.title)


def evaluate(
    recipe: Recipe,
    source: Source,
    splits: Splits,
    *,
    model: str,
    dataset: str,
    progress: Progress = lambda done: None,
) -> Evaluation:
    """Asks for every input of the test split.

    Classification: accuracy, where a refused input counts as wrong, and precision, recall and F1
    of each class. Regression: R2, mean absolute error, root mean squared error. Language:
    perplexity, each passage by itself. The last two are over the answered inputs.

    Raises:
        VestalError: the source does not load, cannot be reached, refuses everything, or answers
            as another kind of model.
    """
    begin = time.perf_counter()
    test = splits.test
    said = source.ask(recipe, test, progress)
    seconds = time.perf_counter() - begin
    refused = reports.refused(said)
    if len(refused) == len(test):
        first = refused[0]
        raise VestalError(
            f"{source.place} refuses every input of {dataset} ({len(test):,}); the first one: "
            f"{first['status'] or ''} {first['type']}: {first['message']}"
        )
    objective = recipe.objective
    report: Report
    if isinstance(objective, Classification):
        targets = [int(target_at(test, index)) for index in range(len(test))]
        report = reports.classified(said, targets, splits.labels or ())
    elif isinstance(objective, Regression):
        numbers = [float(target_at(test, index)) for index in range(len(test))]
        report = reports.regressed(said, numbers, objective)
    else:
        report = reports.scored(said)
    return Evaluation(
        model=model,
        kind=source.kind,
        place=source.place,
        version=source.version,
        dataset=dataset,
        size=len(test),
        seconds=seconds,
        refused=refused,
        report=report,
    )


def facts(found: Evaluation) -> dict[str, Any]:
    """All of it, for JSON."""
    report = found.report
    said: dict[str, Any] = {
        "model": found.model,
        "version": found.version,
        "measured": found.kind,
        "source": found.place,
        "dataset": found.dataset,
        "size": found.size,
        "figures": report.figures,
        "refused": found.refused,
        "seconds": round(found.seconds, 3),
    }
    if isinstance(report, Classified):
        said["undecided"] = report.undecided
        said["classes"] = [vars(row) for row in report.classes]
        said["confusion"] = vars(report.confusion)
    return said
