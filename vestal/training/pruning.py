"""Structured pruning: the channels and neurons that matter least are really taken away."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from vestal.errors import UsageError


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
