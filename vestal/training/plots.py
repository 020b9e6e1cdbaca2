"""Plots of predictions, confusion matrices and training histories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vestal.files.storage import atomic_write

MOST_NAMED = 30  # labels in a confusion matrix


@dataclass(frozen=True)
class PredictedImage:
    """An image [H, W] or [H, W, 3], its actual label (None: unknown) and its predicted label."""

    image: Any
    actual: str | None
    predicted: str


def draw_grid(images: Sequence[PredictedImage], file: Path, title: str = "") -> None:
    """Draw images in a square grid, with their labels above; wrong predictions are red.

    The suffix of `file` selects the format (.png, .pdf, .svg).
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    # Unlike pyplot, Figure needs no display and no global state.
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, image in zip(axes, images, strict=False):
        axis.imshow(image.image, cmap="gray")
        wrong = image.actual is not None and image.actual != image.predicted
        actual = "" if image.actual is None else f"actual {image.actual}\n"
        axis.set_title(
            f"{actual}predicted {image.predicted}",
            fontsize=9,
            color="crimson" if wrong else "black",
        )
    if title:
        figure.suptitle(title, fontsize=10)
    _save(figure, file)


def draw_curve(history: Sequence[Mapping[str, float]], file: Path) -> None:
    """Draw losses and learning rate by epoch and, below, each metric.

    A vertical line marks the epoch with the lowest `val_loss`, whose weights are kept.
    `history`: rows with `epoch`, `loss`, `val_loss`, `lr`, and the metrics as `val_*`.
    """
    epochs = [row["epoch"] for row in history]
    metrics = [name for name in history[-1] if name.startswith("val_") and name != "val_loss"]
    figure = Figure(figsize=(6, 2.4 * (1 + len(metrics))), layout="constrained")
    axes = figure.subplots(1 + len(metrics), 1, squeeze=False, sharex=True).flatten()
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        axes[0].plot(epochs, [row.get(name) for row in history], marker=".", label=label)
    axes[0].set_ylabel("loss")
    rate = axes[0].twinx()
    rate.plot(epochs, [row.get("lr") for row in history], color="grey", linewidth=1, linestyle=":")
    rate.set_ylabel("learning rate (dotted)")
    for axis, name in zip(axes[1:], metrics, strict=True):
        axis.plot(epochs, [row.get(name) for row in history], marker=".", color="seagreen")
        axis.set_ylabel(name.removeprefix("val_"))
    validated = [row for row in history if row.get("val_loss") is not None]
    if validated:
        kept = min(validated, key=lambda row: row["val_loss"])["epoch"]
        for axis in axes:
            axis.axvline(kept, color="grey", linewidth=1, label=f"kept: epoch {kept:g}")
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel("epoch")
    _save(figure, file)


def draw_confusion(
    labels: Sequence[str], counts: Sequence[Sequence[int]], file: Path, title: str = ""
) -> None:
    """Draw counts by actual label (row) and predicted label (column), in the order of `labels`.

    Colors show the share of a row, so that rare classes are as visible as frequent ones. Numbers
    and labels are written only for up to 30 labels, where they are readable.
    """
    readable = len(labels) <= MOST_NAMED
    # The labels next to the matrix require about 0.08 inches per character.
    margin = max(1.5, 0.08 * max(map(len, labels)) + 1.0)
    side = max(4.0, 0.45 * len(labels) + margin) if readable else 10.0
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="actual")
    if readable:
        long = max(map(len, labels)) > 3
        axis.set_xticks(range(len(labels)), labels, rotation=90 if long else 0)
        axis.set_yticks(range(len(labels)), labels)
        for row, values in enumerate(counts):
            for column, count in enumerate(values):
                if count:
                    color = "white" if shares[row][column] > 0.5 else "black"
                    axis.text(
                        column, row, str(count), ha="center", va="center", color=color, fontsize=8
                    )
    if title:
        axis.set_title(title, fontsize=10)
    _save(figure, file)


def draw_predicted(
    actual: Sequence[float],
    predicted: Sequence[float],
    file: Path,
    title: str = "",
    units: str = "",
) -> None:
    """Draw predicted against actual numbers [N]; the diagonal marks correct predictions."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    both = (min(*actual, *predicted), max(*actual, *predicted))
    axis.plot(both, both, color="grey", linewidth=1)
    axis.scatter(actual, predicted, s=12, alpha=0.6)
    axis.locator_params(nbins=5)  # more numbers with six digits would overlap
    in_units = f" ({units})" if units else ""
    axis.set(xlabel=f"actual{in_units}", ylabel=f"predicted{in_units}")
    if title:
        axis.set_title(title, fontsize=10)
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    with atomic_write(file) as fresh:
        figure.savefig(fresh, dpi=100)
