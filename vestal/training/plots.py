"""Pictures of what a model says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


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
    figure.savefig(file, dpi=100)


def draw_curve(history: Sequence[Mapping[str, float]], file: Path) -> None:
    """Draws a training's losses by epoch and, below, its figures.

    `history`: rows with `epoch`, `loss`, `val_loss`, and the figures as `val_*`.
    """
    epochs = [row["epoch"] for row in history]
    figures = [name for name in history[-1] if name.startswith("val_") and name != "val_loss"]
    figure = Figure(figsize=(6, 2.4 * (1 + len(figures))), layout="constrained")
    axes = figure.subplots(1 + len(figures), 1, squeeze=False, sharex=True).flatten()
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        axes[0].plot(epochs, [row.get(name) for row in history], marker=".", label=label)
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    for axis, name in zip(axes[1:], figures, strict=True):
        axis.plot(epochs, [row.get(name) for row in history], marker=".", color="seagreen")
        axis.set_ylabel(name.removeprefix("val_"))
    axes[-1].set_xlabel("epoch")
    figure.savefig(file, dpi=100)
