"""Pictures of what a model says."""

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
class Seen:
    """One image [H, W] or [H, W, 3] beside its truth (None: not known) and its prediction."""

    image: Any
    actual: str | None
    predicted: str


def draw_grid(seen: Sequence[Seen], file: Path, title: str = "") -> None:
    """Draws the images in a square grid, each under `actual` and `predicted`; wrong ones in red.

    Written as the kind that the file's suffix names (.png, .pdf, .svg).
    """
    columns = math.ceil(math.sqrt(len(seen)))
    rows = math.ceil(len(seen) / columns)
    # No pyplot: a figure of its own needs no display and no global state.
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, one in zip(axes, seen, strict=False):
        axis.imshow(one.image, cmap="gray")
        wrong = one.actual is not None and one.actual != one.predicted
        actual = "" if one.actual is None else f"actual {one.actual}\n"
        axis.set_title(
            f"{actual}predicted {one.predicted}", fontsize=9, color="crimson" if wrong else "black"
        )
    if title:
        figure.suptitle(title, fontsize=10)
    _save(figure, file)


def draw_curve(history: Sequence[Mapping[str, float]], file: Path) -> None:
    """Draws a training's losses and learning rate by epoch and, below, its figures.

    A vertical line marks the epoch whose weights are kept, the one with the lowest `val_loss`.
    `history`: rows with `epoch`, `loss`, `val_loss`, `lr`, and the figures as `val_*`.
    """
    epochs = [row["epoch"] for row in history]
    figures = [name for name in history[-1] if name.startswith("val_") and name != "val_loss"]
    figure = Figure(figsize=(6, 2.4 * (1 + len(figures))), layout="constrained")
    axes = figure.subplots(1 + len(figures), 1, squeeze=False, sharex=True).flatten()
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        axes[0].plot(epochs, [row.get(name) for row in history], marker=".", label=label)
    axes[0].set_ylabel("loss")
    rate = axes[0].twinx()
    rate.plot(epochs, [row.get("lr") for row in history], color="grey", linewidth=1, linestyle=":")
    rate.set_ylabel("learning rate (dotted)")
    for axis, name in zip(axes[1:], figures, strict=True):
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
    """Draws counts by actual label (row) and predicted label (column), both in `labels`' order.

    Each row is coloured by its shares, so a rare class shows as well as a frequent one. Numbers
    and names are written where they can be read: up to 30 labels.
    """
    readable = len(labels) <= MOST_NAMED
    # Beside the squares the names need their room: about 0.08 inches a character.
    room = max(1.5, 0.08 * max(map(len, labels)) + 1.0)
    side = max(4.0, 0.45 * len(labels) + room) if readable else 10.0
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
    """Draws each prediction over the truth [N]; on the diagonal they are equal."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    both = (min(*actual, *predicted), max(*actual, *predicted))
    axis.plot(both, both, color="grey", linewidth=1)
    axis.scatter(actual, predicted, s=12, alpha=0.6)
    axis.locator_params(nbins=5)  # more numbers of six digits overlap
    in_units = f" ({units})" if units else ""
    axis.set(xlabel=f"actual{in_units}", ylabel=f"predicted{in_units}")
    if title:
        axis.set_title(title, fontsize=10)
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    with atomic_write(file) as fresh:
        figure.savefig(fresh, dpi=100)
