"""Knowledge distillation: a student, what teaches it, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from vestal.recipes.objectives import Classification, Objective
from vestal.training.loop import Learner

TEMPERATURE = 4.0
SOFT_SHARE = 0.7  # of the loss, that the teacher has

Teacher = Callable[[Tensor], Tensor]


class Distiller(Learner):
    """Learns from the labels and from a teacher's probabilities, softened by a temperature.

    The loss of Hinton, Vinyals and Dean, 2015 (https://arxiv.org/abs/1503.02531): the soft part is
    scaled by the temperature squared, so that its gradients keep their size.
    """

    def __init__(self, *args: Any, teacher: Teacher) -> None:
        super().__init__(*args)
        self._teach = teacher  # no submodule: nothing of it is trained or saved

    def training_loss(self, batch: Sequence[Tensor]) -> Tensor:
        inputs, targets, seen_by_teacher = batch
        with torch.no_grad():
            soft = (self._teach(seen_by_teacher.cpu()) / TEMPERATURE).softmax(-1).to(inputs.device)
        outputs = self.module(inputs)
        told = nn.functional.kl_div(
            (outputs / TEMPERATURE).log_softmax(-1), soft, reduction="batchmean"
        )
        hard = self.recipe.objective.loss(outputs, targets)
        return SOFT_SHARE * TEMPERATURE**2 * told + (1 - SOFT_SHARE) * hard


def gives_logits(objective: Objective) -> bool:
    """Whether a module trained for it gives logits of classes."""
    return isinstance(objective, Classification) and objective.outputs == "logits"


def logits_of(model: Teacher, objective: Objective) -> Teacher:
    """What the model gives as logits: of probabilities their logarithms."""
    if gives_logits(objective):
        return model
    return lambda batch: model(batch).clamp_min(1e-7).log()


def in_mode_of(prepare: Any, given: Any) -> Any:
    """A decoded image with the channels that the teacher's transform takes."""
    mode = getattr(prepare, "mode", None)
    if mode == "RGB" and given.shape[-3] == 1:
        return given.expand(*given.shape[:-3], 3, *given.shape[-2:])
    return v2.functional.rgb_to_grayscale(given) if mode == "L" and given.shape[-3] == 3 else given
