"""A regression with one hidden layer: 3-128-1 with ReLU."""

import torch
from torch import Tensor, nn


class Regression(nn.Module):
    """Standardized rows [N, 3] to predictions [N, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(3, 128)
        self.fc2 = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> Tensor:
        prediction: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return prediction


def build() -> nn.Module:
    return Regression()
