"""Measure a model on the test split of its recipe."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.evaluation import reports
from vestal.evaluation.predictions import Progress, target_at
from vestal.evaluation.reports import ClassificationReport, Report
from vestal.evaluation.sources import Source
from vestal.recipes.objectives import Classification, Regression
from vestal.recipes.recipe import Recipe, Splits


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of a measurement.

    Attributes:
        kind: "weights", "archive" or "server"; `place` is its path or URL.
        size: number of inputs in the test split; `refused` lists those without a prediction.
        seconds: duration, including loading the model.
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
        """Draw the confusion matrix, or predicted against actual numbers.

        Raises:
            UsageError: a language model, which has nothing to draw.
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
    """Get a prediction for every input of the test split, and compute metrics.

    Classification: accuracy, where a refused input counts as wrong, and precision, recall and F1
    of each class. Regression: R2, mean absolute error, root mean squared error. Language:
    perplexity, each passage alone. Refused inputs are left out of the last two.

    Raises:
        VestalError: the source does not load, cannot be reached, refuses every input, or responds
            as another kind of model.
    """
    start = time.perf_counter()
    test = splits.test
    outcomes = source.predict(recipe, test, progress)
    seconds = time.perf_counter() - start
    refused = reports.refused_inputs(outcomes)
    if len(refused) == len(test):
        first = refused[0]
        raise VestalError(
            f"{source.place} refuses every input of {dataset} ({len(test):,}); the first: "
            f"{first['status'] or ''} {first['type']}: {first['message']}"
        )
    objective = recipe.objective
    report: Report
    if isinstance(objective, Classification):
        targets = [int(target_at(test, index)) for index in range(len(test))]
        report = reports.classification_report(outcomes, targets, splits.labels or ())
    elif isinstance(objective, Regression):
        numbers = [float(target_at(test, index)) for index in range(len(test))]
        report = reports.regression_report(outcomes, numbers, objective)
    else:
        report = reports.perplexity_report(outcomes)
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


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as JSON values."""
    report = evaluation.report
    fields: dict[str, Any] = {
        "model": evaluation.model,
        "version": evaluation.version,
        "measured": evaluation.kind,
        "source": evaluation.place,
        "dataset": evaluation.dataset,
        "size": evaluation.size,
        "figures": report.metrics,
        "refused": evaluation.refused,
        "seconds": round(evaluation.seconds, 3),
    }
    if isinstance(report, ClassificationReport):
        fields["undecided"] = report.undecided
        fields["classes"] = [vars(row) for row in report.classes]
        fields["confusion"] = vars(report.confusion)
    return fields
