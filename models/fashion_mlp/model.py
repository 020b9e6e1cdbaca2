"""The multilayer perceptron of PyTorch's quickstart: 784-512-512-10 with ReLU."""

from torch import Tensor, nn


class NeuralNetwork(nn.Module):
    """Images [N, 1, 28, 28] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear_relu_stack(self.flatten(x))
        return logits


def build() -> nn.Module:
    return NeuralNetwork()
