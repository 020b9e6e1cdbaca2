"""The training loop: Lightning's, around a recipe."""

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

from vestal.errors import UsageError, VestalError
from vestal.files.storage import atomic_write
from vestal.recipes.recipe import Examples, Recipe, Splits
from vestal.training.loading import Shuffled, Transform, loader

CHECKPOINTS = "checkpoints"
LAST = f"{CHECKPOINTS}/last.ckpt"  # of the last whole epoch: where `--resume` goes on
HISTORY = "history.json"


class WholeCheckpoints(TorchCheckpointIO):
    """A checkpoint replaces the last one only when it is whole: `--resume` reads it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as fresh:
            super().save_checkpoint(checkpoint, fresh, storage_options)


class Learner(lightning.LightningModule):
    """A recipe's objective, AdamW under a one-cycle learning rate."""

    def __init__(self, recipe: Recipe, module: nn.Module, labels: Sequence[str] | None, seed: int):
        super().__init__()
        self.recipe, self.module, self.seed = recipe, module, seed
        self.figures = recipe.objective.metrics(labels)
        self._figures = nn.ModuleDict(self.figures)  # where Lightning moves and resets them

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
            # In mixed precision they come in 16 bits, in which figures are not computed.
            figure.update(self.recipe.objective.predicted(outputs).float(), targets)
            self.log(f"val_{name}", figure, prog_bar=name == self.recipe.objective.figure)

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
class Trained:
    """`module`: in eval mode on the CPU, of the epoch with the lowest validation loss.

    `validation`, `test`: that epoch's figures by name. `epochs`: how many were run.
    """

    module: nn.Module
    best_epoch: int
    epochs: int
    validation: dict[str, float]
    test: dict[str, float]


class _Bar(RichProgressBar):
    def _get_train_description(self, current_epoch: int) -> str:
        """Epochs from 1, as in everything else that Vestal prints."""
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return text.ljust(len(self.validation_description))  # else the bar flickers


class History(Callback):
    """`history.json`: a line an epoch, written as they end, so that a kill loses none."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        figures = {
            "loss" if name == "train_loss" else name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name != "loss"
        }
        before = json.loads(self.file.read_text("utf-8")) if self.file.exists() else []
        # A resumed training repeats what came after its checkpoint.
        kept = [row for row in before if row["epoch"] <= trainer.current_epoch]
        rows = [*kept, {"epoch": trainer.current_epoch + 1, **figures}]
        fresh = self.file.with_suffix(".new")
        fresh.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
        fresh.replace(self.file)


def fit(
    learner: Learner,
    splits: Splits,
    transform: Transform,
    folder: Path,
    *,
    epochs: int,
    device: str = "auto",
    augment: Callable[[Any], Any] | None = None,
    teacher_transform: Transform | None = None,
) -> Trained:
    """Trains, validates after every epoch, and measures the best epoch on the test split.

    `folder` gets history.json, and checkpoints/ while it lasts: where one is there already, the
    training goes on from it.

    Args:
        device: "auto", "cpu", "cuda" or "mps"; on CUDA it computes in mixed precision.
        augment: changes one decoded training input at random.
        teacher_transform: gives a third part of every training batch (`Distiller`).

    Raises:
        UsageError: no such device here.
        VestalError: interrupted; its checkpoint stays.
    """
    accelerator = accelerator_of(device)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = learner.recipe
    last = folder / LAST
    best = ModelCheckpoint(folder / CHECKPOINTS, monitor="val_loss", mode="min", save_last=True)
    callbacks: list[Callback] = [best, History(folder / HISTORY)]
    theme = RichProgressBarTheme(metrics_format=".3g")
    bar = _Bar(leave=epochs <= 30, theme=theme, console_kwargs={"stderr": True})
    callbacks.append(bar)
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(monitor="val_loss", mode="min", patience=recipe.patience))
    extra = [teacher_transform] if teacher_transform else []
    with _quiet():
        trainer = lightning.Trainer(
            accelerator=accelerator,
            precision=_precision(accelerator),
            devices=1,
            max_epochs=epochs,
            gradient_clip_val=recipe.gradient_clip,
            # On CUDA some layers (adaptive pooling) have no deterministic gradient.
            deterministic="warn" if accelerator == "cuda" else True,
            callbacks=callbacks,
            plugins=[WholeCheckpoints()],
            logger=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        shuffled = Shuffled(len(splits.train), learner.seed, lambda: trainer.current_epoch)
        with _interruptible(trainer):
            trainer.fit(
                learner,
                loader(recipe, splits.train, transform, *extra, augment=augment, sampler=shuffled),
                loader(recipe, splits.validation, transform),
                ckpt_path=last if last.is_file() else None,
                weights_only=True,
            )
        if trainer.interrupted:
            raise VestalError(
                f"training stopped in epoch {trainer.current_epoch + 1} of {epochs}: "
                + ("go on with --resume" if last.is_file() else "there is nothing to keep yet")
            )
        checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    learner.load_state_dict(checkpoint["state_dict"])
    module = learner.module.to("cpu").eval()
    return Trained(
        module=module,
        best_epoch=int(checkpoint["epoch"]) + 1,
        epochs=trainer.current_epoch,
        validation=measure(module, recipe, splits.validation, transform, splits.labels),
        test=measure(module, recipe, splits.test, transform, splits.labels),
    )


@contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """At Ctrl-C Lightning ignores every further one and exits: what to do then is said by us."""
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
    """The objective's figures by name, over all examples."""
    figures = recipe.objective.metrics(labels)
    for inputs, targets in loader(recipe, examples, transform):
        predicted = recipe.objective.predicted(module(inputs))
        for figure in figures.values():
            figure.update(predicted, targets)
    return {name: float(figure.compute()) for name, figure in figures.items()}


def accelerator_of(device: str) -> str:
    """cpu, cuda or mps; raises UsageError where it is not here."""
    kinds = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if device == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if kinds[kind])
    if not kinds.get(device):
        have = ", ".join(kind for kind, there in kinds.items() if there)
        raise UsageError(f"no device {device!r} here: there is {have} (or say auto)")
    return device


def _precision(accelerator: str) -> Any:
    if accelerator != "cuda":
        return "32-true"
    # Emulated, it would be slower than fp32.
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's hints (worker counts, devices found) are not for the user of a recipe."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
