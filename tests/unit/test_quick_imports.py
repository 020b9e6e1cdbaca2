"""torchvision without torch.compile's machinery, which comes when it is asked for."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from vestal.inprocess.quick_imports import quick_imports

with quick_imports():
    import torchvision.transforms.v2 as transforms
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]

import torch
from torchvision import tv_tensors

image = transforms.functional.horizontal_flip(tv_tensors.Image(torch.arange(4.0).reshape(1, 2, 2)))
assert isinstance(image, tv_tensors.Image) and image.flatten().tolist() == [1, 0, 3, 2]
boxes = torch.tensor([[0.0, 0, 0, 2, 2]])
assert torchvision_roi_align(torch.ones(1, 1, 4, 4), boxes, 1).item() == 1
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist() == [2, 2]
assert "torch._dynamo.eval_frame" in sys.modules
""".replace("torchvision_roi_align", "__import__('torchvision').ops.roi_align")


def test_torchvision_works_and_torch_compile_comes_later():
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
