"""Tensors of a safetensors file begin at multiples of 64 bytes, and keep their values."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vestal.weights.alignment import ALIGNMENT, align


def offsets(file):
    """Where each tensor begins in the file."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return {
        name: 8 + length + each["data_offsets"][0]
        for name, each in header.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_large_tensors_are_aligned_and_all_values_are_kept(tmp_path, metadata):
    torch.manual_seed(0)
    tensors = {
        "a.bias": torch.randn(10),
        "a.weight": torch.randn(10, 128),
        "b": torch.tensor(3),
        "c.half": torch.randn(64, 32).half(),
        "empty": torch.empty(0, 4),
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file, metadata)
    align(file)
    found = load_file(file)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], each) for name, each in tensors.items())
    begin = offsets(file)
    assert begin["a.weight"] % ALIGNMENT == begin["c.half"] % ALIGNMENT == 0
    once = file.read_bytes()
    align(file)
    assert file.read_bytes() == once
    assert list(tmp_path.iterdir()) == [file]
