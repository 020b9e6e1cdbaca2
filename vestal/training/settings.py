"""What the user says of a training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user said of a training; `settings.json` keeps it for `--resume`.

    Attributes:
        dataset: a data set of the recipe; None: the only one.
        data: the folder or file that holds it; None: its own place.
        epochs: None: the recipe's.
        device: auto, cpu, cuda or mps.
        seed: of the weights, the order and the augmentation.
        teacher: the run that is distilled into this model: its folder, or a model's name.
        prune: the share of channels and neurons to take away from `start`, a run.
        start: the weights to begin with: a run (its folder, or a model's name), a file, or a name
            of the recipe's weights. None: the data set's own; with `prune` the model's newest run.
    """

    dataset: str | None = None
    data: str | None = None
    epochs: int | None = None
    device: str = "auto"
    seed: int = 0
    teacher: str | None = None
    prune: float | None = None
    start: str | None = None
