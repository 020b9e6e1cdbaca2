"""Data and training of mnist: handwritten digits."""

from torchvision.transforms import v2

from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import DataSet, Recipe
from vestal.training.datasets import digits, mnist

from .model import build

# Handwriting varies in place, slant and size.
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
    formats=("torchscript", "exported", "state_dict"),
)
