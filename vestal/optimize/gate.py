"""Compare an optimized archive with its weights in fp32, and refuse one that lost accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.evaluation import reports
from vestal.evaluation.predictions import Outcome, RefusedInput, read_prediction
from vestal.inprocess.frontend import Frontend
from vestal.inprocess.loaded_archive import load_staged
from vestal.inprocess.messages import Response
from vestal.mar.answers import Answer, compare_answers, larger
from vestal.optimize.data import InputSet
from vestal.recipes.objectives import Classification, NextToken, Regression
from vestal.recipes.recipe import Recipe

BATCH = 8
AGREES = 0.05  # the largest difference of two numbers that agree, relative for numbers above 1
UNITS = {
    "accuracy": "points",
    "r2": "points of 0.01",
    "perplexity": "percent",
    "agreement": "points",
}


@dataclass(frozen=True)
class Measurement:
    """What an optimization changes, on inputs that it has not seen.

    Attributes:
        data: name of the inputs; `inputs`: their number.
        metric: accuracy, r2 or perplexity; `agreement` if there are no targets.
        before, after: the metric in fp32 and optimized, accuracy and agreement from 0 to 1.
        drop: how much worse it is: in points of accuracy or agreement, in points of 0.01 of R2, or
            in percent of the perplexity.
        agreement: share of the predictions with the same label; of models without labels, those
            whose numbers differ by at most 0.05, relative for numbers above 1.
        largest_difference: of probabilities or other numbers; None: there are no numbers.
    """

    data: str
    inputs: int
    metric: str
    before: float
    after: float
    drop: float
    agreement: float
    largest_difference: float | None

    def text(self) -> str:
        """One sentence for people."""
        about = f"agreement {self.agreement:.2%}"
        if self.largest_difference is not None:
            about += f", largest difference {self.largest_difference:.2g}"
        where = f"on {self.inputs:,} inputs of {self.data}"
        if self.metric == "agreement":
            return f"{about} with fp32 {where}; the inputs have no labels, so there is no accuracy"
        form = "{:.2%}" if self.metric == "accuracy" else "{:.4g}"
        change = f"{self.metric} {form.format(self.before)} in fp32, {form.format(self.after)} now"
        return f"{change} (a drop of {self.drop:.2f} {UNITS[self.metric]}); {about}, {where}"


def measure(
    recipe: Recipe, reference: Path, optimized: Path, name: str, data: InputSet, frontend: Frontend
) -> Measurement:
    """Predict all inputs with both staged archives, and compare.

    Raises:
        VestalError: an archive does not load, or the reference refuses every input.
    """
    before = _predict(reference, name, data, frontend)
    after = _predict(optimized, name, data, frontend)
    if all(response.status != 200 for response in before):
        text = before[0].body.decode("utf-8", "replace")
        raise VestalError(f"{name} refuses every input of {data.name}; the first: {text}")
    pairs = [
        compare_answers(
            Answer.of(left.status, left.body), Answer.of(right.status, right.body), AGREES
        )
        for left, right in zip(before, after, strict=True)
    ]
    has_labels = _has_label(before)
    same = [not pair.grave if has_labels else pair.difference is None for pair in pairs]
    largest = None
    for pair in pairs:
        largest = larger(largest, larger(pair.probability, pair.value))
    agreement = sum(same) / len(same)
    metric, scores = "agreement", (1.0, agreement)
    if data.objective is not None and (data.targets or isinstance(data.objective, NextToken)):
        metric, old = _metric(recipe, data, before, name)
        scores = (old, _metric(recipe, data, after, name)[1])
    return Measurement(
        data=data.name,
        inputs=len(pairs),
        metric=metric,
        before=round(scores[0], 6),
        after=round(scores[1], 6),
        drop=round(_drop(metric, *scores), 4),
        agreement=round(agreement, 6),
        largest_difference=None if largest is None else float(f"{largest:.4g}"),
    )


def _drop(metric: str, before: float, after: float) -> float:
    if metric == "perplexity":
        return 100 * (after / before - 1)
    return 100 * (before - after)


def _predict(folder: Path, name: str, data: InputSet, frontend: Frontend) -> list[Response]:
    with load_staged(folder, name, batch_size=1) as loaded:
        batches = frontend.predict(loaded, data.requests, BATCH)
        return [response for batch in batches for response in batch.responses]


def _has_label(responses: Sequence[Response]) -> bool:
    answered = next(response for response in responses if response.status == 200)
    value = Answer.of(200, answered.body).value
    return isinstance(value, dict) and ("label" in value or "labels" in value)


def _metric(
    recipe: Recipe, data: InputSet, responses: Sequence[Response], name: str
) -> tuple[str, float]:
    outcomes: list[Outcome] = [
        read_prediction(recipe, response.json(), name)
        if response.status == 200
        else RefusedInput(response.status, "Error", "")
        for response in responses
    ]
    targets: Sequence[Any] = data.targets or ()
    if isinstance(data.objective, Classification):
        indices = [int(target) for target in targets]
        found = reports.classification_report(outcomes, indices, data.labels)
        return "accuracy", found.metrics["accuracy"]
    if isinstance(data.objective, Regression):
        numbers = [float(target) for target in targets]
        return "r2", reports.regression_report(outcomes, numbers, data.objective).metrics["r2"]
    return "perplexity", reports.perplexity_report(outcomes).metrics["perplexity"]
