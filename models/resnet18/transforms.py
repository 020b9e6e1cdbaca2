"""Preprocessing for training and serving: ImageNet's, as torchvision's weights require it."""

import torch
from torchvision.transforms import v2

from vestal_handlers import ImageTransform

transform = ImageTransform(
    mode="RGB",
    steps=(
        v2.Resize(256, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        # Means and standard deviations of ImageNet's training pixels.
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
)
