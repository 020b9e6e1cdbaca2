"""Preprocessing for training and serving: grayscale, 28 x 28, values from 0 to 1."""

import torch
from torchvision.transforms import v2

from vestal_handlers import ImageTransform

transform = ImageTransform(
    mode="L",
    steps=(v2.Resize((28, 28), antialias=True), v2.ToDtype(torch.float32, scale=True)),
)
