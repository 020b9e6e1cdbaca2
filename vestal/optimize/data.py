"""The inputs that a quantized model is calibrated with, and those that it is evaluated on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vestal.errors import UsageError
from vestal.evaluation.predictions import request_body, target_at
from vestal.inprocess.frontend import RawRequest
from vestal.recipes.objectives import Classification, NextToken, Objective
from vestal.recipes.recipe import Examples, Recipe, Splits
from vestal.runs import Run

CALIBRATION = 300  # inputs; NNCF's default
LEAST_CALIBRATION = 32
EVALUATION = 2000  # inputs at most
LEAST_NUMBERS = 20  # predicted numbers, for R2 and perplexity

ReadInputs = Callable[[Path, Callable[[], Mapping[str, Any]]], Sequence[RawRequest]]
"""Reads the inputs in a file or folder; the second argument returns the model's input schema."""


@dataclass(frozen=True)
class InputSet:
    """Requests, and their targets if they are known.

    Attributes:
        name: of the data set and the split, or the path, for people.
        targets: class indices or numbers, by request; None: unknown.
        objective: how predictions are compared with targets; None: without targets.
        labels: the classes that class indices refer to.
    """

    name: str
    requests: Sequence[RawRequest]
    targets: Sequence[Any] | None = None
    objective: Objective | None = None
    labels: Sequence[str] = ()

    def picked(self, places: Sequence[int]) -> InputSet:
        """The requests at these places."""
        targets = None if self.targets is None else [self.targets[place] for place in places]
        return replace(self, requests=[self.requests[i] for i in places], targets=targets)

    def spread(self, most: int) -> InputSet:
        """At most that many requests, evenly spaced: data sets are often sorted by class."""
        count = len(self.requests)
        return (
            self.picked([index * count // most for index in range(most)]) if count > most else self
        )


@dataclass(frozen=True)
class OptimizationData:
    """What the user passes: data sets of the recipe, files or folders; None: the weights' data set.

    Attributes:
        max_drop: the largest accepted `gate.Measurement.drop`.
        place: folder or file of a data set that is not downloaded, as for a training.
    """

    calibrate: str | None = None
    evaluate: str | None = None
    max_drop: float = 0.5
    place: Path | None = None

    def load(
        self,
        recipe: Recipe,
        run: Run,
        read: ReadInputs,
        schema: Callable[[], Mapping[str, Any]],
        *,
        calibrated: bool,
    ) -> tuple[InputSet | None, InputSet]:
        """Return the inputs for the calibration and for the evaluation, which never overlap.

        Args:
            calibrated: whether a calibration is needed; the first result is None otherwise.

        Raises:
            UsageError: there is no such data, or too little.
        """

        @cache
        def load(name: str) -> Splits:
            return recipe.splits(name, self.place)

        def find(given: str | None, option: str, split: str) -> InputSet:
            if given is None or (given in recipe.datasets and not Path(given).exists()):
                return _of_recipe(recipe, run, given, option, split, load)
            return _of_path(Path(given), option, run, read, schema)

        evaluation = find(self.evaluate, "--evaluate", "test").spread(EVALUATION)
        _check_size(evaluation, self.max_drop)
        if not calibrated:
            return None, evaluation
        given = find(self.calibrate, "--calibrate", "train")
        used = {_digest(request) for request in evaluation.requests}
        kept = given.picked(
            [place for place, one in enumerate(given.requests) if _digest(one) not in used]
        )
        count, shared = len(kept.requests), len(given.requests) - len(kept.requests)
        if count < LEAST_CALIBRATION:
            both = f" ({shared} more are also in the evaluation data)" if shared else ""
            raise UsageError(
                f"{given.name} has {count} inputs for the calibration{both}, and int8 needs at "
                f"least {LEAST_CALIBRATION}: pass more with --calibrate"
            )
        return kept.spread(CALIBRATION), evaluation


def _of_recipe(
    recipe: Recipe,
    run: Run,
    given: str | None,
    option: str,
    split: str,
    load: Callable[[str], Splits],
) -> InputSet:
    name = given or run.dataset
    if name not in recipe.datasets:
        raise UsageError(
            f"{run.model} has no data set to use by default, as these weights come from {name}: "
            f"pass {option} with a file or folder of inputs"
            + (
                f", or a data set of the recipe ({', '.join(recipe.datasets)})"
                * bool(recipe.datasets)
            )
        )
    splits = load(name)
    examples: Examples = getattr(splits, split)
    most = EVALUATION if split == "test" else CALIBRATION
    # Only those that are used: encoding a whole data set would take minutes.
    count = len(examples)
    places = range(count) if count <= most else [i * count // most for i in range(most)]
    requests = []
    for index in places:
        body = request_body(recipe, examples, index)
        requests.append(RawRequest(f"input {index}", body.content, body.content_type))
    targets = None
    if not isinstance(recipe.objective, NextToken):
        targets = [target_at(examples, index) for index in places]
    which = {"train": "training", "test": "test"}[split]
    return InputSet(
        f"{name} ({which} split)", requests, targets, recipe.objective, splits.labels or ()
    )


def _of_path(
    path: Path,
    option: str,
    run: Run,
    read: ReadInputs,
    schema: Callable[[], Mapping[str, Any]],
) -> InputSet:
    if not path.exists():
        raise UsageError(
            f"{option} {path}: there is no such file, folder or data set of the recipe"
        )
    requests = read(path, schema)
    labels = run.labels or []
    folders = [Path(request.name).parent.name for request in requests]
    if labels and folders and all(folder in labels for folder in folders):
        targets = [labels.index(folder) for folder in folders]
        return InputSet(str(path), requests, targets, Classification(), labels)
    return InputSet(str(path), requests)


def _check_size(evaluation: InputSet, max_drop: float) -> None:
    """One input more or less must not decide: it counts for less than `max_drop`."""
    numeric = evaluation.objective is not None and not isinstance(
        evaluation.objective, Classification
    )
    least = LEAST_NUMBERS if numeric else math.ceil(100 / max_drop) if max_drop else 0
    count = len(evaluation.requests)
    if count < max(1, least):
        raise UsageError(
            f"{evaluation.name} has {count} inputs for the evaluation, but a drop of {max_drop:g} "
            f"points is seen only with at least {least}: pass more with --evaluate, or a larger "
            "--max-drop"
        )


def _digest(request: RawRequest) -> bytes:
    return hashlib.sha256(request.body).digest()
