"""Handwritten digits: what to train on and how."""

from torchvision.transforms import v2

from vestal.training.datasets import digits, mnist
from vestal.training.recipe import Recipe

from .model import build
from .transforms import transform

recipe = Recipe(
    task="image_classifier",
    build=build,
    transform=transform,
    labels=tuple("0123456789"),
    datasets={"digits": digits, "mnist": mnist},
    epochs={"digits": 8, "mnist": 4},
    batch_size=32,
    learning_rate=2e-3,
    # Nobody writes twice in the same place at the same slant.
    augment=v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1)),
)
