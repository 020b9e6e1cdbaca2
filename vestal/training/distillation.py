"""Knowledge distillation: a model learns from the labels and from a trained model, the teacher."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from vestal.errors import UsageError
from vestal.model_folders import find_model, handler_options
from vestal.project import Project
from vestal.recipes.objectives import Classification, Objective
from vestal.recipes.recipe import LoadedDataSet, Transform, identity, load_recipe
from vestal.runs import TRANSFORMS, Run, find_run
from vestal.training.comparison import compare
from vestal.training.loop import Learner
from vestal.training.settings import Settings
from vestal.training.strategy import Strategy, Training
from vestal.trust import trusted_run
from vestal_handlers import engines
from vestal_handlers.model_files import load_module

TEMPERATURE = 4.0
SOFT_SHARE = 0.7  # weight of the teacher's part of the loss

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Teacher:
    """A trained model, in eval mode on the CPU.

    Attributes:
        transform: prepares its inputs.
        logits: computes logits [N, classes] from prepared inputs.
    """

    run: Run
    module: nn.Module
    transform: Transform
    logits: Model


class Distillation(Strategy):
    """Trains a model with a teacher of the same labels and any architecture."""

    def pin_weights(self, settings: Settings) -> Settings:
        if not gives_logits(self.recipe.objective):
            raise UsageError("--teacher requires a classifier whose module returns logits")
        assert settings.teacher is not None
        folder = find_run(self.project, settings.teacher).folder.resolve()
        return super().pin_weights(replace(settings, teacher=str(folder)))

    def make_learner(self, module: nn.Module, data: LoadedDataSet) -> Learner:
        assert self.settings.teacher is not None
        run = find_run(self.project, self.settings.teacher)
        self.teacher = load_teacher(self.project, run, data.splits.labels)
        return Distiller(
            self.recipe, module, data.splits.labels, self.settings.seed, teacher=self.teacher
        )

    def report(self, training: Training, module: nn.Module, artifact: Path) -> dict[str, Any]:
        teacher, data = self.teacher, training.data
        before, after = compare(
            self.recipe,
            data.splits,
            (teacher.module, teacher.transform),
            (module, data.transform),
        )
        return {
            "kind": "distillation",
            "before": {"run": str(teacher.run.folder), **before},
            "after": {**after, "file": artifact.name},
        }


class Distiller(Learner):
    """Learns from the labels and from a teacher's probabilities, softened by a temperature.

    The loss of Hinton, Vinyals and Dean, 2015 (https://arxiv.org/abs/1503.02531): the soft part is
    scaled by the temperature squared, so that its gradients keep their size.
    """

    def __init__(self, *args: Any, teacher: Teacher) -> None:
        super().__init__(*args)
        self._logits = teacher.logits  # not a submodule: it is neither trained nor saved
        self.extra_transforms = (teacher.transform,)

    def training_loss(self, batch: Sequence[Tensor]) -> Tensor:
        inputs, targets, teacher_inputs = batch
        with torch.no_grad():
            soft = (self._logits(teacher_inputs.cpu()) / TEMPERATURE).softmax(-1).to(inputs.device)
        outputs = self.module(inputs)
        divergence = nn.functional.kl_div(
            (outputs / TEMPERATURE).log_softmax(-1), soft, reduction="batchmean"
        )
        hard = self.recipe.objective.loss(outputs, targets)
        return SOFT_SHARE * TEMPERATURE**2 * divergence + (1 - SOFT_SHARE) * hard


def load_teacher(project: Project, run: Run, labels: Sequence[str] | None) -> Teacher:
    """Load a run as the teacher of a model with these labels.

    Raises:
        UsageError: the run has other labels, or its artifact is not a torch module.
        VestalError: the run is from outside the project and its code differs.
    """
    if run.labels != list(labels or ()):
        raise UsageError(
            f"the teacher {run.folder} has other labels ({run.labels}) than this recipe "
            f"({list(labels or ())})"
        )
    recipe = load_recipe(project, run.model)
    prepare: Any = identity
    with tempfile.TemporaryDirectory(prefix="vestal-teacher-") as scratch:
        folder = trusted_run(project, run, recipe.task, Path(scratch) / "run").folder
        output = handler_options(find_model(project, run.model)).get("output")
        engine = engines.load(folder / run.artifacts[0], torch.device("cpu"), output=output)
        if (folder / TRANSFORMS).is_file():
            prepare = load_module(folder, TRANSFORMS.removesuffix(".py")).transform
    if engine.module is None:
        raise UsageError(
            f"the teacher {run.folder} must be a torch module, but its artifact is "
            f"{run.artifacts[0]}"
        )
    return Teacher(
        run=run,
        module=engine.module,
        transform=lambda value: prepare(_with_channels(value, getattr(prepare, "mode", None))),
        logits=logits_of(engine, recipe.objective),
    )


def gives_logits(objective: Objective) -> bool:
    """Whether a module that is trained for this objective returns logits of classes."""
    return isinstance(objective, Classification) and objective.outputs == "logits"


def logits_of(model: Model, objective: Objective) -> Model:
    """The model itself, or, if it returns probabilities, a function of their logarithms."""
    if gives_logits(objective):
        return model
    return lambda batch: model(batch).clamp_min(1e-7).log()


def _with_channels(value: Any, mode: str | None) -> Any:
    """A decoded image with the channels of the teacher's transform; other inputs unchanged."""
    if mode == "RGB" and value.shape[-3] == 1:
        return value.expand(*value.shape[:-3], 3, *value.shape[-2:])
    return v2.functional.rgb_to_grayscale(value) if mode == "L" and value.shape[-3] == 3 else value
