"""Smaller models with the same task: knowledge distillation and structured pruning."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torchvision.transforms import v2

from vestal.errors import UsageError
from vestal.project import Project
from vestal.runs import TRANSFORMS, Run, latest_run
from vestal.training.loop import Learner, Trained, Transform
from vestal.training.objectives import Classification, NextToken, Objective
from vestal.training.recipe import Recipe
from vestal_handlers import engines
from vestal_handlers.engines import eager
from vestal_handlers.model_files import load_module

TEMPERATURE = 4.0
SOFT_SHARE = 0.7  # of the loss, that the teacher has
REPEATS = 15
SPEED_BATCH = 16


class Distiller(Learner):
    """Learns from the labels and from a teacher's probabilities, softened by a temperature.

    The loss of Hinton, Vinyals and Dean, 2015 (https://arxiv.org/abs/1503.02531): the soft part is
    scaled by the temperature squared, so that its gradients keep their size.
    """

    def __init__(self, *args: Any, teacher: Callable[[Tensor], Tensor]) -> None:
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


@dataclass(frozen=True)
class Plan:
    """What of a training is compression; nothing, by default.

    `report`: what it did, before and after: figures, bytes and milliseconds a batch.
    """

    learner: Learner | None = None
    teacher_transform: Transform | None = None
    formats: Sequence[str] = ()
    kind: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    example: Tensor | None = None

    def report(self, trained: Trained, figures: dict[str, float], artifact: Path) -> dict[str, Any]:
        if not self.kind:
            return {}
        assert self.example is not None
        after = {**figures, **footprint(trained.module, self.example), "file": artifact.name}
        return {"kind": self.kind, "before": self.before, "after": after}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user said of a training; `settings.json` keeps it for `--resume`.

    Attributes:
        dataset: a data set of the recipe; None: the only one.
        data: the folder that holds it; None: its own place.
        epochs: None: the recipe's.
        device: auto, cpu, cuda or mps.
        seed: of the weights, the order and the augmentation.
        teacher: the run that is distilled into this model: its folder, or a model's name.
        prune: the share of channels and neurons to take away from `start`, a run likewise.
    """

    dataset: str | None = None
    data: str | None = None
    epochs: int | None = None
    device: str = "auto"
    seed: int = 0
    teacher: str | None = None
    prune: float | None = None
    start: str | None = None


def check(recipe: Recipe, settings: Settings) -> None:
    """Raises UsageError where a compression cannot be, before anything is loaded."""
    teacher, prune, start = settings.teacher, settings.prune, settings.start
    if teacher and prune is not None:
        raise UsageError("--teacher and --prune are two ways to a smaller model: take one")
    if prune is not None and not 0 < prune < 1:
        raise UsageError(f"--prune takes a share between 0 and 1, such as 0.5, not {prune}")
    if prune is not None and isinstance(recipe.objective, NextToken):
        raise UsageError("--prune is for models of convolutions and linear layers")
    if teacher and not _gives_logits(recipe.objective):
        raise UsageError("--teacher is for classifiers whose module gives logits")
    if start and prune is None:
        raise UsageError("--start names the run to prune: say --prune FRACTION too")


def _gives_logits(objective: Objective) -> bool:
    return isinstance(objective, Classification) and objective.outputs == "logits"


def plan(
    project: Project,
    name: str,
    recipe: Recipe,
    labels: Sequence[str] | None,
    example: Tensor,
    settings: Settings,
) -> Plan:
    """Prepares a distillation or a pruning, where one was asked for.

    Raises:
        UsageError, VestalError: no such run, or one of other labels.
    """
    if settings.teacher:
        teacher = find_run(project, settings.teacher)
        return _distillation(teacher, recipe, labels, example, settings.seed)
    if settings.prune is not None:
        start = find_run(project, settings.start or name)
        return _pruning(start, recipe, labels, example, settings.prune, settings.seed)
    return Plan()


def find_run(project: Project, named: str) -> Run:
    """A run by its folder, or the newest run of a model by its name."""
    folder = Path(named)
    return Run.read(folder if folder.is_dir() else latest_run(project, named))


def load_engine(run: Run) -> engines.Engine:
    """The run's first artifact, on the CPU."""
    return engines.load(run.folder / run.artifacts[0], torch.device("cpu"))


def _distillation(
    run: Run, recipe: Recipe, labels: Sequence[str] | None, example: Tensor, seed: int
) -> Plan:
    if run.labels != list(labels or ()):
        raise UsageError(
            f"the teacher {run.folder} knows other labels ({run.labels}) than this recipe "
            f"({list(labels or ())})"
        )
    engine = load_engine(run)
    if engine.module is None:
        raise UsageError(f"the teacher {run.folder} must be a torch module, not {run.artifacts[0]}")
    prepare = load_module(run.folder, TRANSFORMS.removesuffix(".py")).transform
    learner = Distiller(recipe, recipe.make(labels), labels, seed, teacher=engine)
    shape = torch.zeros(2, *run.input_shape)
    return Plan(
        learner=learner,
        teacher_transform=lambda given: prepare(_in_mode(given, prepare)),
        kind="distillation",
        before={"run": str(run.folder), **run.test, **footprint(engine.module, shape)},
        example=example,
    )


def _in_mode(given: Any, prepare: Any) -> Any:
    """A decoded image with the channels that the teacher was trained on."""
    mode = getattr(prepare, "mode", None)
    if mode == "RGB" and given.shape[-3] == 1:
        return given.expand(*given.shape[:-3], 3, *given.shape[-2:])
    return v2.functional.rgb_to_grayscale(given) if mode == "L" and given.shape[-3] == 3 else given


def _pruning(
    run: Run,
    recipe: Recipe,
    labels: Sequence[str] | None,
    example: Tensor,
    fraction: float,
    seed: int,
) -> Plan:
    weights = [name for name in run.artifacts if Path(name).suffix in (".pth", ".safetensors")]
    if not weights:
        raise UsageError(
            f"{run.folder} holds {', '.join(run.artifacts)}: pruning starts from weights by name "
            "(a state_dict or safetensors)"
        )
    module = recipe.make(labels)
    eager.fill(module, eager.read(run.folder / weights[0]), weights[0])
    before = {"run": str(run.folder), **run.test, **footprint(module.eval(), example)}
    prune(module, example, fraction)
    # A state_dict does not fit build() any more: these formats carry their own architecture.
    formats = [name for name in recipe.saves if name in ("torchscript", "exported", "onnx")]
    return Plan(
        learner=Learner(recipe, module, labels, seed),
        formats=formats or ["torchscript"],
        kind="pruning",
        before={**before, "fraction": fraction},
        example=example,
    )


def prune(module: nn.Module, example: Tensor, fraction: float) -> None:
    """Takes away that share of each layer's channels, those of the least magnitude, in place.

    The outputs stay: the last layer loses inputs only. By torch-pruning, which finds what depends
    on a channel (Fang et al., 2023, https://arxiv.org/abs/2301.12900).
    """
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    torch_pruning.pruner.BasePruner(
        module.train(),
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=fraction,
        ignored_layers=layers[-1:],
    ).step()


@torch.inference_mode()
def footprint(module: nn.Module, example: Tensor) -> dict[str, Any]:
    """Parameters, the bytes of all weights, and the median ms of a forward of 16 inputs."""
    tensors = [*module.parameters(), *module.buffers()]
    batch = example[:1].expand(SPEED_BATCH, *example.shape[1:]).contiguous()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        module(batch)
        times.append(time.perf_counter() - start)
    return {
        "parameters": sum(tensor.numel() for tensor in module.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "ms_per_batch_of_16": round(median(times) * 1000, 3),
    }
