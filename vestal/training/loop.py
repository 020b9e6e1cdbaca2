"""The training loop: Lightning's, around a recipe."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from vestal.errors import UsageError, VestalError
from vestal.training.recipe import Examples, Recipe, Splits


class Classifier(lightning.LightningModule):
    """Cross entropy, AdamW under a one-cycle learning rate; accuracy over all examples."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.module = recipe.build()
        self.accuracy = MulticlassAccuracy(len(recipe.labels), average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.module(inputs), targets)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        inputs, targets = batch
        logits = self.module(inputs)
        self.accuracy(logits, targets)
        self.log("val_loss", nn.functional.cross_entropy(logits, targets), prog_bar=True)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.recipe.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@dataclass(frozen=True)
class Trained:
    """`module`: in eval mode on the CPU, of the epoch with the lowest validation loss."""

    module: nn.Module
    best_epoch: int
    val_accuracy: float
    test_accuracy: float


def fit(recipe: Recipe, splits: Splits, *, epochs: int, device: str, seed: int) -> Trained:
    """Trains, validates after every epoch, and measures the best epoch's test accuracy.

    Args:
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        UsageError: no such device here.
        VestalError: interrupted; nothing is saved.
    """
    accelerator = _accelerator(device)
    with _quiet(), TemporaryDirectory(prefix="vestal-train-") as folder:
        lightning.seed_everything(seed, workers=True, verbose=False)
        learner = Classifier(recipe)
        best = ModelCheckpoint(folder, monitor="val_loss", mode="min", save_top_k=1)
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=epochs,
            deterministic=True,
            callbacks=[best, RichProgressBar(leave=True, console_kwargs={"stderr": True})],
            logger=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(
            learner,
            _loader(recipe, splits.train, training=True),
            _loader(recipe, splits.validation),
        )
        if trainer.interrupted:
            raise VestalError(f"training stopped in epoch {trainer.current_epoch}: nothing saved")
        checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        learner.load_state_dict(checkpoint["state_dict"])
        best_value = trainer.validate(learner, _loader(recipe, splits.validation), verbose=False)[0]
    module = learner.module.to("cpu").eval()
    return Trained(
        module=module,
        best_epoch=int(checkpoint["epoch"]) + 1,
        val_accuracy=float(best_value["val_accuracy"]),
        test_accuracy=accuracy(module, recipe, splits.test),
    )


@torch.inference_mode()
def accuracy(module: nn.Module, recipe: Recipe, examples: Examples) -> float:
    """The share of examples whose best class is the right one."""
    right = 0
    for inputs, targets in _loader(recipe, examples):
        right += int((module(inputs).argmax(dim=1) == targets).sum())
    return right / len(examples)


def _loader(recipe: Recipe, examples: Examples, training: bool = False) -> DataLoader[Any]:
    augment = recipe.augment if training else None

    def collate(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        inputs, targets = zip(*batch, strict=True)
        images = [augment(image) for image in inputs] if augment else list(inputs)
        if len({image.shape for image in images}) == 1:
            return recipe.transform(torch.stack(images)), torch.tensor(targets)
        return torch.stack([recipe.transform(image) for image in images]), torch.tensor(targets)

    # Decoded images in memory: worker processes would only copy them.
    return DataLoader(
        examples,  # type: ignore[arg-type]  # map-style: __len__ and __getitem__ are enough
        batch_size=recipe.batch_size,
        shuffle=training,
        collate_fn=collate,
    )


def _accelerator(device: str) -> str:
    if device == "auto":
        return "auto"
    kinds = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if not kinds.get(device):
        have = ", ".join(kind for kind, there in kinds.items() if there)
        raise UsageError(f"no device {device!r} here: there is {have} (or say auto)")
    return "gpu" if device == "cuda" else device


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
