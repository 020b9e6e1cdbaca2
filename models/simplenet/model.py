"""A classifier of 2,048 features: 2048-256-64-2 with ReLU, and softmax at the end."""

import torch
from torch import Tensor, nn


class SimpleNet(nn.Module):
    """Vectors [N, 2048] to probabilities [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2048, 256)
        self.fc2 = nn.Linear(256, 64)
        self.fc3 = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        x = torch.relu(self.fc2(x))
        return torch.softmax(self.fc3(x), dim=1)


def build() -> nn.Module:
    return SimpleNet()
