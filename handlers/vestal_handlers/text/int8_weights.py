"""The linear layers of a language model in int8, computed by torch's quantized kernels.

Generating a token reads every weight once, and with few texts in a batch, reading them takes most
of the time. Int8 weights are a quarter of the bytes.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_LARGEST = 127
_TINY = 1e-30


class Int8Linear(nn.Module):
    """`x @ weight.T + bias` in int8: one scale for each row of the weight, and for each row of x.

    The kernel takes one range for all rows of x. So each row is scaled to [-1, 1], and a further
    row has both ends of the range: a row's result does not depend on the others.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scales = (weight.abs().amax(dim=1) / _LARGEST).clamp_min(_TINY).double()
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            # torch 2.15 deprecates quantized tensors; no other of its int8 kernels is fast on CPUs.
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        # Without VNNI, the kernel adds products in 16 bits, which 8-bit activations overflow.
        self._reduced = not torch.cpu._is_vnni_supported()
        ends = torch.zeros(1, weight.shape[1])
        ends[0, 0], ends[0, -1] = -1, 1
        self.ends: Tensor
        self.register_buffer("ends", ends, persistent=False)
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1])
        scales = rows.abs().amax(dim=1, keepdim=True).clamp_min(_TINY)
        scaled = torch.cat((rows / scales, self.ends))
        computed = torch.ops.quantized.linear_dynamic(scaled, self._packed, self._reduced)
        outputs: Tensor = computed[:-1] * scales
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
