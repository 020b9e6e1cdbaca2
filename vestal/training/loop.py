"""The training loop: examples become batches, and Lightning trains a recipe's module on them."""

from __future__ import annotations

import json
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, default_collate

from vestal.errors import VestalError
from vestal.files.storage import atomic_write, write_text
from vestal.recipes.recipe import Examples, Recipe, Splits, Transform

CHECKPOINTS = "checkpoints"
LAST = f"{CHECKPOINTS}/last.ckpt"  # written after every epoch; `--resume` continues from it
HISTORY = "history.json"


class AtomicCheckpoints(TorchCheckpointIO):
    """Replaces a checkpoint only by a complete one, because `--resume` reads it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as fresh:
            super().save_checkpoint(checkpoint, fresh, storage_options)


class Learner(lightning.LightningModule):
    """Trains a module for the recipe's objective: AdamW with a one-cycle learning rate.

    `extra_transforms`: each adds a tensor of transformed inputs to every training batch.
    """

    extra_transforms: Sequence[Transform] = ()

    def __init__(self, recipe: Recipe, module: nn.Module, labels: Sequence[str] | None, seed: int):
        super().__init__()
        self.recipe, self.module, self.seed = recipe, module, seed
        self.figures = recipe.objective.metrics(labels)
        self._figures = nn.ModuleDict(self.figures)  # here Lightning moves and resets them

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        loss = self.training_loss(batch)
        self.log("loss", loss, prog_bar=True)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], prog_bar=True)
        return loss

    def training_loss(self, batch: Sequence[Tensor]) -> Tensor:
        inputs, targets = batch
        return self.recipe.objective.loss(self.module(inputs), targets)

    def validation_step(self, batch: Sequence[Tensor], index: int) -> None:
        inputs, targets = batch
        outputs = self.module(inputs)
        loss = self.recipe.objective.loss(outputs, targets)
        self.log("val_loss", loss, batch_size=len(inputs))
        for name, figure in self.figures.items():
            # Mixed precision gives outputs of 16 bits, and the metrics require 32.
            figure.update(self.recipe.objective.predicted(outputs).float(), targets)
            self.log(f"val_{name}", figure, prog_bar=name == self.recipe.objective.main_metric)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.module.parameters(),
            recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=steps, pct_start=recipe.warmup
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@dataclass(frozen=True)
class TrainingResult:
    """The module of the epoch with the lowest validation loss, in eval mode on the CPU.

    Attributes:
        epochs: number of epochs that were run.
        validation, test: metrics of that module by name.
    """

    module: nn.Module
    best_epoch: int
    epochs: int
    validation: dict[str, float]
    test: dict[str, float]


class _ProgressBar(RichProgressBar):
    def _get_train_description(self, current_epoch: int) -> str:
        """Count epochs from 1, like all other output of Vestal."""
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return text.ljust(len(self.validation_description))  # prevents flicker


class History(Callback):
    """Writes a row of `history.json` after every epoch."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        figures = {
            "loss" if name == "train_loss" else name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name != "loss"
        }
        rows = json.loads(self.file.read_text("utf-8")) if self.file.exists() else []
        # A resumed training repeats the epochs after its checkpoint.
        rows = [row for row in rows if row["epoch"] <= trainer.current_epoch]
        rows.append({"epoch": trainer.current_epoch + 1, **figures})
        write_text(self.file, json.dumps(rows, indent=1) + "\n")


class EpochSampler(Sampler[int]):
    """A random order for each epoch, and a seed for its dropout and augmentation.

    All depend on the number of the epoch alone, so that a resumed training is exact.
    """

    def __init__(self, size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.size, self.seed, self.epoch = size, seed, epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        torch.manual_seed(self.seed * 1_000_003 + self.epoch())
        yield from torch.randperm(self.size).tolist()


def loader(
    recipe: Recipe,
    examples: Examples,
    *transforms: Transform,
    augment: Callable[[Any], Any] | None = None,
    sampler: Sampler[int] | None = None,
) -> DataLoader[Any]:
    """Batches of (inputs by the first transform, targets, inputs by each further transform)."""

    def collate(batch: Sequence[tuple[Any, Any]]) -> list[Any]:
        inputs = [augment(value) if augment else value for value, _ in batch]
        targets = default_collate([target for _, target in batch])
        if targets.is_floating_point():
            targets = targets.float()
        first, *rest = (_apply(transform, inputs) for transform in transforms)
        return [first, targets, *rest]

    # No worker processes: all randomness is in this process, and threads decode files.
    dataset: Any = examples  # __len__ and __getitem__ are enough
    return DataLoader(dataset, recipe.batch_size, sampler=sampler, collate_fn=collate)


def _apply(transform: Transform, inputs: Sequence[Any]) -> Tensor:
    image = isinstance(inputs[0], Tensor) and inputs[0].dim() == 3
    if image and len({value.shape for value in inputs}) == 1:
        return transform(torch.stack(list(inputs)))
    return torch.stack([transform(value) for value in inputs])


def fit(
    learner: Learner,
    splits: Splits,
    transform: Transform,
    folder: Path,
    *,
    epochs: int,
    device: str = "auto",
    augment: Callable[[Any], Any] | None = None,
) -> TrainingResult:
    """Train, validate after every epoch, and measure the best epoch on the test split.

    Writes history.json and checkpoints/ to `folder`, and continues from checkpoints in it.

    Args:
        device: "auto", "cpu", "cuda" or "mps"; CUDA computes in mixed precision.
        augment: changes a decoded training input at random.

    Raises:
        VestalError: interrupted; the last checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = learner.recipe
    last = folder / LAST
    best = ModelCheckpoint(folder / CHECKPOINTS, monitor="val_loss", mode="min", save_last=True)
    theme = RichProgressBarTheme(metrics_format=".3g")
    bar = _ProgressBar(leave=epochs <= 30, theme=theme, console_kwargs={"stderr": True})
    callbacks: list[Callback] = [best, History(folder / HISTORY), bar]
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(monitor="val_loss", mode="min", patience=recipe.patience))
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    with _quiet():
        trainer = lightning.Trainer(
            accelerator=device,
            precision=_precision(cuda),
            devices=1,
            max_epochs=epochs,
            gradient_clip_val=recipe.gradient_clip,
            # Some layers (adaptive pooling) have no deterministic gradient on CUDA.
            deterministic="warn" if cuda else True,
            callbacks=callbacks,
            plugins=[AtomicCheckpoints()],
            logger=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        transforms = (transform, *learner.extra_transforms)
        order = EpochSampler(len(splits.train), learner.seed, lambda: trainer.current_epoch)
        batches = loader(recipe, splits.train, *transforms, augment=augment, sampler=order)
        validation = loader(recipe, splits.validation, transform)
        resume = last if last.is_file() else None
        with _interruptible(trainer):
            trainer.fit(learner, batches, validation, ckpt_path=resume, weights_only=True)
        if trainer.interrupted:
            raise VestalError(
                f"training interrupted in epoch {trainer.current_epoch + 1} of {epochs}: "
                + ("continue with --resume" if last.is_file() else "no epoch is complete yet")
            )
        checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    learner.load_state_dict(checkpoint["state_dict"])
    module = learner.module.to("cpu").eval()
    best_epoch = int(checkpoint["epoch"]) + 1
    figures = [
        measure(module, recipe, examples, transform, splits.labels)
        for examples in (splits.validation, splits.test)
    ]
    return TrainingResult(module, best_epoch, trainer.current_epoch, *figures)


@contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Keep Lightning from exiting at Ctrl-C, and restore the signal handler that it replaces."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@torch.inference_mode()
def measure(
    module: Callable[[Tensor], Any],
    recipe: Recipe,
    examples: Examples,
    transform: Transform,
    labels: Sequence[str] | None = None,
) -> dict[str, float]:
    """The objective's metrics by name, over all examples."""
    figures = recipe.objective.metrics(labels)
    for inputs, targets in loader(recipe, examples, transform):
        predicted = recipe.objective.predicted(module(inputs))
        for figure in figures.values():
            figure.update(predicted, targets)
    return {name: float(figure.compute()) for name, figure in figures.items()}


def _precision(cuda: bool) -> Any:
    if not cuda:
        return "32-true"
    # Emulated bfloat16 is slower than float32.
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's hints about worker processes and devices."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        try:
            yield
        finally:
            log.setLevel(level)
