"""The options of a training."""

from __future__ import annotations

from dataclasses import dataclass

from vestal.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a training; `settings.json` keeps them for `--resume`.

    Attributes:
        dataset: name of a data set in the recipe; None: the only one.
        data: folder or file of the data set; None: its default location.
        epochs: number of epochs; None: as in the recipe.
        device: auto, cpu, cuda or mps.
        seed: seed for initial weights, order of the examples and augmentation.
        teacher: run to distil from: its folder, or the name of a model.
        prune: share of the channels and neurons to remove from `initial_weights`, a run.
        initial_weights: a run (its folder, or the name of a model), a file, or a name in the
            recipe's `weights`. None: as in the data set; with `prune`, the newest run of the model.

    Raises:
        UsageError: an invalid value, options that exclude each other, or a missing device.
    """

    dataset: str | None = None
    data: str | None = None
    epochs: int | None = None
    device: str = "auto"
    seed: int = 0
    teacher: str | None = None
    prune: float | None = None
    initial_weights: str | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs must be at least 1, got {self.epochs}")
        if self.teacher and self.prune is not None:
            raise UsageError("--teacher and --prune exclude each other: pass one of them")
        if self.prune is not None and not 0 < self.prune < 1:
            raise UsageError(f"--prune must be between 0 and 1, such as 0.5; got {self.prune}")
        _check_device(self.device)


def _check_device(device: str) -> None:
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if device != "auto" and not available.get(device):
        names = ", ".join(name for name, present in available.items() if present)
        raise UsageError(
            f"device {device!r} is not available on this machine; expected auto or one of: {names}"
        )
