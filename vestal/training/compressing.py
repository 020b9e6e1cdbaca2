"""Smaller models with the same task: knowledge distillation and structured pruning."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torchvision.transforms import v2

from vestal.errors import UsageError
from vestal.project import Project
from vestal.runs import TRANSFORMS, Run, find_run
from vestal.training import starting
from vestal.training.loop import Learner, Transform, fetch, measure
from vestal.training.objectives import Classification, NextToken, Objective
from vestal.training.recipe import DataSet, Recipe, Splits, as_it_is, load_recipe
from vestal.training.settings import Settings
from vestal_handlers import engines
from vestal_handlers.engines import eager
from vestal_handlers.model_files import load_module

TEMPERATURE = 4.0
SOFT_SHARE = 0.7  # of the loss, that the teacher has
WARM_UP, REPEATS = 3, 15
SPEED_BATCH = 16
# What carries its own architecture: a pruned model's weights do not fit build() any more.
OWN_ARCHITECTURE = ("torchscript", "exported", "onnx")


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


@dataclass(frozen=True, kw_only=True)
class Compression:
    """What a training makes smaller, to be compared with what comes of it.

    Attributes:
        kind: "distillation" or "pruning".
        run: where the larger model comes from.
        large: that model, in eval mode on the CPU; `transform` prepares its inputs.
        teacher: gives logits; None where nobody teaches.
        formats: to save in; empty: the recipe's.
        facts: what else the report says of the larger one.
    """

    kind: str
    run: Run
    large: nn.Module
    transform: Transform
    teacher: Teacher | None = None
    formats: Sequence[str] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def report(
        self, recipe: Recipe, splits: Splits, transform: Transform, small: nn.Module, artifact: Path
    ) -> dict[str, Any]:
        """Both on the same test split, at the same time: figures, bytes, milliseconds a batch.

        `transform`: the smaller one's.
        """
        ((given, _),) = fetch(splits.test, (0,))
        both = [(self.large, self.transform), (small, transform)]
        times = in_turn([(module, prepare(given)) for module, prepare in both])
        before, after = (
            {
                **measure(module, recipe, splits.test, prepare, splits.labels),
                **size(module),
                f"ms_per_batch_of_{SPEED_BATCH}": round(milliseconds, 3),
            }
            for (module, prepare), milliseconds in zip(both, times, strict=True)
        )
        return {
            "kind": self.kind,
            "before": {"run": str(self.run.folder), **before, **self.facts},
            "after": {**after, "file": artifact.name},
        }


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
    if start and isinstance(recipe.objective, NextToken):
        raise UsageError(
            "--start is not for language models: their tokenizer is trained anew, so that other "
            "weights would speak of other tokens"
        )


def _gives_logits(objective: Objective) -> bool:
    return isinstance(objective, Classification) and objective.outputs == "logits"


def resolved(project: Project, name: str, recipe: Recipe, settings: Settings) -> Settings:
    """With folders and files in place of names: the newest run is another one when it resumes.

    Raises:
        VestalError: there is no such run.
    """
    teacher, start = settings.teacher, settings.start
    if teacher:
        teacher = str(find_run(project, teacher).folder.resolve())
    if settings.prune is not None:
        start = str(find_run(project, start or name).folder.resolve())
    elif start:
        start = starting.resolve(project, recipe, start)
    return replace(settings, teacher=teacher, start=start)


def begin(
    project: Project,
    recipe: Recipe,
    chosen: DataSet,
    labels: Sequence[str] | None,
    transform: Transform,
    example: Tensor,
    settings: Settings,
) -> tuple[nn.Module, Compression | None]:
    """The module that is trained, and what it makes smaller, if anything.

    Args:
        settings: as `resolved` gives them.

    Raises:
        UsageError, VestalError: no such run or weights, or they do not fit.
    """
    if settings.prune is not None:
        assert settings.start is not None
        run = find_run(project, settings.start)
        return _pruned(run, recipe, labels, transform, example, settings.prune)
    module = starting.begin(project, recipe, chosen, labels, settings)
    if settings.teacher:
        return module, taught_by(project, find_run(project, settings.teacher), labels)
    return module, None


def taught_by(project: Project, run: Run, labels: Sequence[str] | None) -> Compression:
    """A run that teaches a smaller model of the same labels.

    Raises:
        UsageError: it knows other labels, or its artifact is no torch module.
    """
    if run.labels != list(labels or ()):
        raise UsageError(
            f"the teacher {run.folder} knows other labels ({run.labels}) than this recipe "
            f"({list(labels or ())})"
        )
    engine = engines.load(run.folder / run.artifacts[0], torch.device("cpu"))
    if engine.module is None:
        raise UsageError(f"the teacher {run.folder} must be a torch module, not {run.artifacts[0]}")
    prepare: Any = as_it_is
    if (run.folder / TRANSFORMS).is_file():
        prepare = load_module(run.folder, TRANSFORMS.removesuffix(".py")).transform
    return Compression(
        kind="distillation",
        run=run,
        large=engine.module,
        transform=lambda given: prepare(_in_mode(given, prepare)),
        teacher=logits_of(engine, load_recipe(project, run.model).objective),
    )


def logits_of(
    model: Callable[[Tensor], Tensor], objective: Objective
) -> Callable[[Tensor], Tensor]:
    """What the model gives as logits: of probabilities their logarithms."""
    if _gives_logits(objective):
        return model
    return lambda batch: model(batch).clamp_min(1e-7).log()


def _in_mode(given: Any, prepare: Any) -> Any:
    """A decoded image with the channels that the teacher was trained on."""
    mode = getattr(prepare, "mode", None)
    if mode == "RGB" and given.shape[-3] == 1:
        return given.expand(*given.shape[:-3], 3, *given.shape[-2:])
    return v2.functional.rgb_to_grayscale(given) if mode == "L" and given.shape[-3] == 3 else given


def _pruned(
    run: Run,
    recipe: Recipe,
    labels: Sequence[str] | None,
    transform: Transform,
    example: Tensor,
    fraction: float,
) -> tuple[nn.Module, Compression]:
    weights = starting.weights_of(run)
    module = recipe.make(labels)
    eager.fill(module, eager.read(weights), weights.name)
    small = copy.deepcopy(module)
    prune(small, example, fraction)
    return small, Compression(
        kind="pruning",
        run=run,
        large=module.eval(),
        transform=transform,
        formats=[name for name in recipe.saves if name in OWN_ARCHITECTURE] or ["exported"],
        facts={"fraction": fraction},
    )


def prune(module: nn.Module, example: Tensor, fraction: float) -> None:
    """Takes away that share of each layer's channels, those of the least magnitude, in place.

    The outputs stay: the last layer loses inputs only. By torch-pruning, which finds what depends
    on a channel (Fang et al., 2023, https://arxiv.org/abs/2301.12900).

    Raises:
        UsageError: the outputs would not stay.
    """
    import torch_pruning

    outputs, layers = _called(module.eval(), example)
    torch_pruning.pruner.BasePruner(
        module.train(),
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=fraction,
        ignored_layers=layers[-1:],
    ).step()
    left, _ = _called(module.eval(), example)
    module.train()
    if left != outputs:
        raise UsageError(
            f"--prune would leave outputs {list(left)} of {list(outputs)}: the model's outputs are "
            "not those of the convolution or linear layer that it calls last"
        )


@torch.no_grad()
def _called(module: nn.Module, example: Tensor) -> tuple[torch.Size, list[nn.Module]]:
    """The shape of the outputs, and the layers in the order of their calls.

    An attribute's place in the class says nothing about when it is called.
    """
    called: list[nn.Module] = []
    hooks = [
        part.register_forward_hook(lambda layer, *_: called.append(layer))
        for part in module.modules()
        if isinstance(part, _ConvNd | nn.Linear)
    ]
    outputs = module(example)
    for hook in hooks:
        hook.remove()
    return outputs.shape, called


def size(module: nn.Module) -> dict[str, int]:
    """Parameters, and the bytes of all weights."""
    tensors = [*module.parameters(), *module.buffers()]
    return {
        "parameters": sum(tensor.numel() for tensor in module.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }


@torch.inference_mode()
def in_turn(models: Sequence[tuple[nn.Module, Tensor]]) -> list[float]:
    """The median milliseconds of each one's forward of 16 inputs.

    They are timed in turn, after a warm-up: what else the machine does meets all of them.

    Args:
        models: each with one input that it takes.
    """
    batches = [one.expand(SPEED_BATCH, *one.shape).contiguous() for _, one in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(WARM_UP + REPEATS):
        for (module, _), batch, taken in zip(models, batches, times, strict=True):
            start = time.perf_counter()
            module(batch)
            taken.append(time.perf_counter() - start)
    return [median(taken[WARM_UP:]) * 1000 for taken in times]
