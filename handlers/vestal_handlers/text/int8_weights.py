"""Weights of a language model in int8, with one scale for each output of a layer.

Generating a token reads every weight once, and with few texts in a batch, reading them takes most
of the time. Int8 weights are a quarter of the bytes. Activations stay in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_LARGEST = 127


class Int8Linear(nn.Module):
    """`x @ weight.T + bias`, with the weight [outputs, inputs] rounded to int8."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scales = weight.abs().amax(dim=1).clamp_min(torch.finfo(weight.dtype).tiny) / _LARGEST
        self.register_buffer("weight", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1]).contiguous()
        # The kernel that torchao uses on CPUs.
        outputs: Tensor = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scales)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.reshape(*inputs.shape[:-1], -1)


def quantize(model: nn.Module) -> int:
    """Replace the linear layers of a model of transformers; return their number.

    Embeddings stay in fp32, also one that shares its weight with the last layer.
    """
    count = 0
    for name, child in list(model.named_children()):
        replaced: Any = None
        if isinstance(child, nn.Linear):
            replaced = Int8Linear(child.weight.detach(), child.bias)
        elif isinstance(child, Conv1D):  # GPT-2's layers have their weights transposed
            replaced = Int8Linear(child.weight.detach().t().contiguous(), child.bias)
        if replaced is None:
            count += quantize(child)
        else:
            setattr(model, name, replaced)
            count += 1
    return count
