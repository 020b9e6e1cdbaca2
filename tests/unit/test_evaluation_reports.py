"""Reports of an evaluation: metrics of classes, numbers and texts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    root_mean_squared_error,
)

from vestal.errors import UsageError, VestalError
from vestal.evaluation.predictions import Label, RefusedInput
from vestal.evaluation.reports import (
    NO_LABEL,
    classification_report,
    perplexity_report,
    refused_inputs,
    regression_report,
)
from vestal.recipes.objectives import Regression

REFUSED = RefusedInput(415, "InputError", "not an image")


def test_metrics_of_classes_equal_those_of_scikit_learn(rng):
    labels = ["a", "b", "c"]
    actual = [rng.randrange(3) for _ in range(200)]
    predicted = [labels[a if rng.random() < 0.7 else rng.randrange(3)] for a in actual]
    report = classification_report(predicted, actual, labels)
    actual_labels = [labels[index] for index in actual]
    expected = precision_recall_fscore_support(actual_labels, predicted, labels=labels)
    rows = [(row.precision, row.recall, row.f1, row.support) for row in report.classes]
    assert np.allclose(np.array(rows).T, expected, atol=1e-6)
    correct = sum(a == b for a, b in zip(actual_labels, predicted, strict=True))
    assert report.metrics["accuracy"] == pytest.approx(correct / 200)
    assert sum(map(sum, report.confusion.counts)) == 200
    assert report.confusion.labels == labels


def test_a_refused_input_counts_as_wrong_and_is_listed():
    predicted = ["a", REFUSED, None, "b"]
    report = classification_report(predicted, [0, 0, 1, 1], ["a", "b"])
    assert report.metrics["accuracy"] == 0.5
    assert report.undecided == 1
    assert report.classes[0].recall == 0.5
    assert report.confusion.labels == ["a", "b", NO_LABEL]
    assert report.confusion.counts == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert refused_inputs(predicted) == [{"index": 1, **vars(REFUSED)}]


def test_labels_are_compared_by_name_in_any_order():
    report = classification_report(["b", "a", "zebra"], [1, 0, 0], ["a", "b"])
    assert report.metrics["accuracy"] == pytest.approx(2 / 3)
    assert "zebra" in report.confusion.labels
    with pytest.raises(VestalError, match=r"predicts Coat, but the data set has a, b"):
        classification_report(["Coat"], [0], ["a", "b"])


def test_classes_with_the_same_label_are_compared_by_index():
    labels = ["crane", "dog", "crane"]
    predicted = [Label("crane", 0), Label("crane", 2), Label("crane", 0), Label("dog", 1)]
    report = classification_report(predicted, [0, 2, 2, 1], labels)
    assert report.metrics["accuracy"] == 0.75
    assert [row.label for row in report.classes] == ["crane (0)", "dog", "crane (2)"]
    assert report.confusion.counts == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]
    # Without an index, or with an index of other labels, only the name is compared.
    assert (
        classification_report(["crane", Label("crane", 7)], [0, 0], labels).metrics["accuracy"] == 1
    )
    # A data set with one crane accepts both cranes of the model.
    assert (
        classification_report([Label("crane", 2)], [0], ["crane", "dog"]).metrics["accuracy"] == 1
    )


def test_metrics_of_numbers_equal_those_of_scikit_learn(rng):
    actual = [rng.uniform(20, 300) for _ in range(50)]
    predicted = [value + rng.gauss(0, 30) for value in actual]
    report = regression_report([*predicted, REFUSED], [*actual, 1.0], Regression(units="mm"))
    assert report.metrics == pytest.approx(
        {
            "r2": r2_score(actual, predicted),
            "mae": mean_absolute_error(actual, predicted),
            "rmse": root_mean_squared_error(actual, predicted),
        },
        rel=1e-5,
    )
    assert len(report.actual) == 50


def test_perplexity_is_the_mean_over_tokens_not_passages():
    report = perplexity_report([[-1.0, -3.0], REFUSED, [-2.0, -2.0, -2.0, -2.0], []])
    assert report.metrics["perplexity"] == pytest.approx(np.exp(2.0))
    assert report.tokens == 6
    with pytest.raises(UsageError, match="nothing to draw"):
        report.draw(None, "")
