from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from vestal.training import plots
from vestal.training.plots import (
    PredictedImage,
    draw_confusion,
    draw_curve,
    draw_grid,
    draw_predicted,
)

pytestmark = pytest.mark.heavy


def red_pixels(file):
    red, green, blue = np.asarray(Image.open(file).convert("RGB")).astype(int).transpose(2, 0, 1)
    return int(((red > 180) & (green < 100) & (blue < 120)).sum())


@pytest.mark.parametrize("count", [1, 3, 16])
def test_only_wrong_predictions_are_red(tmp_path, count):
    blank = np.zeros((8, 8))
    draw_grid([PredictedImage(blank, "3", "3")] * count, tmp_path / "right.png")
    draw_grid(
        [PredictedImage(blank, "3", "3")] * (count - 1) + [PredictedImage(blank, "3", "5")],
        tmp_path / "w.png",
    )
    assert red_pixels(tmp_path / "right.png") == 0
    assert red_pixels(tmp_path / "w.png") > 0


def test_a_prediction_without_an_actual_label_is_not_red(tmp_path):
    draw_grid([PredictedImage(np.zeros((8, 8)), None, "5")], tmp_path / "grid.png", title="photos")
    assert red_pixels(tmp_path / "grid.png") == 0


@pytest.fixture
def drawn(monkeypatch):
    """A list of the figures that were saved."""
    figures = []

    class Recorder(plots.Figure):
        def savefig(self, *arguments, **keywords):
            super().savefig(*arguments, **keywords)
            figures.append(self)

    monkeypatch.setattr(plots, "Figure", Recorder)
    return figures


def test_a_curve_shows_losses_learning_rate_and_metrics(tmp_path, drawn):
    rows = [
        {"epoch": n, "loss": 1 / n, "val_loss": 2 / n, "val_accuracy": n / 4, "lr": n / 100}
        for n in (1, 2, 3)
    ]
    draw_curve(rows, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000
    losses, accuracy, rate = drawn[0].axes
    assert [line.get_ydata().tolist() for line in losses.lines[:2]] == [
        [row["loss"] for row in rows],
        [row["val_loss"] for row in rows],
    ]
    for axis in (losses, accuracy):
        kept = axis.lines[-1]
        assert list(kept.get_xdata()) == [3, 3]
        assert kept.get_label() == "kept: epoch 3"
    assert accuracy.get_ylabel() == "accuracy"
    assert accuracy.lines[0].get_ydata().tolist() == [0.25, 0.5, 0.75]
    assert rate.get_ylabel().startswith("learning rate")
    assert rate.lines[0].get_ydata().tolist() == [0.01, 0.02, 0.03]


@pytest.mark.parametrize("length", [1, 12, 80])
def test_long_labels_fit_into_the_plot(tmp_path, drawn, length):
    labels = ["x" * length, "y" * length, "z"]
    draw_confusion(labels, [[1, 0, 0], [0, 2, 1], [0, 0, 3]], tmp_path / "c.png")  # no warning
    figure = drawn[0]
    ticks = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
    for tick in ticks:
        place = tick.get_window_extent()
        assert place.x0 >= 0
        assert place.y0 >= 0
    assert figure.axes[0].get_window_extent().width > 40  # pixels: the matrix is visible


def test_numbers_of_many_digits_do_not_overlap(tmp_path, drawn):
    draw_predicted([123_456.0, 923_456.0], [200_000.0, 900_000.0], tmp_path / "p.png", units="EUR")
    figure = drawn[0]
    (axis,) = figure.axes
    boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
    assert len(boxes) > 2
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))
