"""Preprocessing as in the training by TensorFlow: bicubic, and pixels from -1 to 1."""

import torch
from torchvision.transforms import v2

from vestal_handlers import ImageTransform

transform = ImageTransform(
    mode="RGB",
    steps=[
        v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=[127 / 255] * 3, std=[128 / 255] * 3),
    ],
)
