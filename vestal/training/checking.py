"""What can be wrong with data and model before a training starts, each in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vestal.errors import VestalError
from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import Recipe, Splits
from vestal.training.datasets import ImageFiles


def check_splits(recipe: Recipe, splits: Splits, dataset: str) -> None:
    """Raise VestalError where there is nothing to train on, or files are not images."""
    if not len(splits.train):
        raise VestalError(
            f"the data set {dataset} has no train/, so there is nothing to train on; vestal "
            "evaluate takes a folder without it"
        )
    labels = splits.labels or ()
    if isinstance(recipe.objective, Classification) and len(labels) == 1:
        raise VestalError(
            f"the data set {dataset} has one class ({labels[0]}): a classifier needs two at least"
        )
    for part in (splits.train, splits.validation, splits.test):
        if isinstance(part, ImageFiles):
            part.check()


def check_outputs(
    recipe: Recipe,
    module: nn.Module,
    labels: Sequence[str] | None,
    example: Tensor,
    source: str,
    dataset: str,
) -> None:
    """Raise VestalError where a classifier has another number of outputs than there are labels.

    Args:
        example: a batch, as the model takes it.
        source: the file that builds the module, for the message.
    """
    if not isinstance(recipe.objective, Classification) or labels is None:
        return
    was = module.training
    with torch.inference_mode():
        outputs = module.eval()(example)
    module.train(was)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape[1] == len(labels):
        return
    named = ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
    raise VestalError(
        f"build() in {source} makes {outputs.shape[1]} outputs, but the data set {dataset} has "
        f"{len(labels)} classes ({named}): write build(classes: int), and let it make as many "
        "outputs as it has classes"
    )
