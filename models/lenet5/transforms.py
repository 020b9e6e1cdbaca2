"""Preprocessing for training and serving: RGB, 32 x 32, normalized as CIFAR-10."""

import torch
from torchvision.transforms import v2

from vestal_handlers import ImageTransform

transform = ImageTransform(
    mode="RGB",
    steps=(
        v2.Resize((32, 32), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        # Means and standard deviations of CIFAR-10's channels, as in its tutorials.
        v2.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ),
)
