"""Handwritten digits: what to train on and how."""

from torchvision.transforms import v2

from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import DataSet, Recipe
from vestal.training.datasets import digits, mnist

from .model import build

# Nobody writes twice in the same place at the same slant.
SLANT = v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1))

recipe = Recipe(
    task="image_classifier",
    build=build,
    objective=Classification(),
    labels=tuple("0123456789"),
    datasets={
        "digits": DataSet(load=digits, epochs=8, augment=SLANT),
        "mnist": DataSet(load=mnist, epochs=4, augment=SLANT),
    },
    batch_size=32,
    learning_rate=2e-3,
    saves=("torchscript", "exported", "state_dict"),
)
