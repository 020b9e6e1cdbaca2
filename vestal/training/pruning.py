"""Structured pruning: remove the channels and neurons of least magnitude, then train on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from vestal.errors import UsageError
from vestal.recipes.objectives import NextToken
from vestal.recipes.recipe import LoadedDataSet
from vestal.runs import find_run
from vestal.training.comparison import compare
from vestal.training.settings import Settings
from vestal.training.strategy import Strategy, Training
from vestal.weights.initial_weights import state_file
from vestal_handlers.engines import eager

# Formats that store the architecture: the weights of a pruned model no longer fit build().
WITH_ARCHITECTURE = ("torchscript", "exported", "onnx")


class Pruning(Strategy):
    """Prunes a run of the same model and trains the rest."""

    def pin_weights(self, settings: Settings) -> Settings:
        if isinstance(self.recipe.objective, NextToken):
            raise UsageError("--prune requires a model of convolutions and linear layers")
        run = find_run(self.project, settings.initial_weights or self.model)
        return replace(settings, initial_weights=str(run.folder.resolve()))

    def build_module(self, data: LoadedDataSet, example: Tensor) -> nn.Module:
        assert self.settings.initial_weights is not None
        assert self.settings.prune is not None
        weights = state_file(find_run(self.project, self.settings.initial_weights))
        self.large = self.recipe.make(data.splits.labels)
        eager.fill(self.large, eager.read(weights), weights.name)
        small = copy.deepcopy(self.large)
        self.large.eval()
        prune(small, example, self.settings.prune)
        return small

    @property
    def formats(self) -> Sequence[str]:
        return [name for name in self.recipe.formats if name in WITH_ARCHITECTURE] or ["exported"]

    def report(self, training: Training, module: nn.Module, artifact: Path) -> dict[str, Any]:
        data = training.data
        before, after = compare(
            self.recipe, data.splits, (self.large, data.transform), (module, data.transform)
        )
        run, fraction = self.settings.initial_weights, self.settings.prune
        return {
            "kind": "pruning",
            "before": {"run": run, **before, "fraction": fraction},
            "after": {**after, "file": artifact.name},
        }


def prune(module: nn.Module, example: Tensor, fraction: float) -> None:
    """Remove this share of each layer's channels, those of least magnitude, in place.

    The outputs stay: the last layer loses inputs only. torch-pruning finds what depends on a
    channel (Fang et al., 2023, https://arxiv.org/abs/2301.12900).

    Raises:
        UsageError: the number of outputs would change.
    """
    import torch_pruning

    outputs, layers = _call_order(module.eval(), example)
    torch_pruning.pruner.BasePruner(
        module.train(),
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=fraction,
        ignored_layers=layers[-1:],
    ).step()
    remaining, _ = _call_order(module.eval(), example)
    module.train()
    if remaining != outputs:
        raise UsageError(
            f"--prune would change the shape of the outputs from {list(outputs)} to "
            f"{list(remaining)}: the model's outputs must be those of the convolution or linear "
            "layer that it calls last"
        )


@torch.no_grad()
def _call_order(module: nn.Module, example: Tensor) -> tuple[torch.Size, list[nn.Module]]:
    """The shape of the outputs, and the layers in the order of their calls.

    The order in which a class defines its layers may be another one.
    """
    calls: list[nn.Module] = []
    hooks = [
        part.register_forward_hook(lambda layer, *_: calls.append(layer))
        for part in module.modules()
        if isinstance(part, _ConvNd | nn.Linear)
    ]
    outputs = module(example)
    for hook in hooks:
        hook.remove()
    return outputs.shape, calls
