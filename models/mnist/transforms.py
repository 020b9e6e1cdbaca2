"""One preprocessing for training and serving: grey, 28 x 28, normalized by MNIST's own moments."""

import torch
from torchvision.transforms import v2

from vestal_handlers import ImageTransform

transform = ImageTransform(
    mode="L",
    steps=(
        v2.Resize((28, 28), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        # Mean and standard deviation of MNIST's training pixels.
        v2.Normalize((0.1307,), (0.3081,)),
    ),
)
