"""Preprocessing for training and serving: grayscale, 28 x 28, normalized as MNIST."""

import torch
from torchvision.transforms import v2

from vestal_handlers import ImageTransform

transform = ImageTransform(
    mode="L",
    steps=(
        v2.Resize((28, 28), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        # Mean and standard deviation of the pixels of MNIST's training set.
        v2.Normalize((0.1307,), (0.3081,)),
    ),
)
