"""torchvision's ResNet-18 (He et al., 2015)."""

from torch import nn
from torchvision.models import resnet18


def build(classes: int) -> nn.Module:
    """Images [N, 3, 224, 224] (and other sizes) to logits [N, classes]."""
    module: nn.Module = resnet18(weights=None, num_classes=classes)
    return module
