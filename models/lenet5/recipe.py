"""Data and training of lenet5: the ten classes of CIFAR-10."""

from functools import partial

from torchvision.transforms import v2

from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import DataSet, Recipe
from vestal.training.datasets import cifar10, digits

from .model import build

# CIFAR-10's own names, in the order of its classes.
THINGS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CROP = v2.RandomCrop(32, padding=4)

recipe = Recipe(
    task="image_classifier",
    build=build,
    objective=Classification(),
    labels=THINGS,
    datasets={
        "cifar10": DataSet(
            load=cifar10,
            epochs=20,
            augment=v2.Compose([CROP, v2.RandomHorizontalFlip()]),
        ),
        # No flips: a mirrored digit is not a digit.
        "digits": DataSet(
            load=partial(digits, size=32, channels=3),
            epochs=20,
            augment=CROP,
        ),
    },
    batch_size=64,
    learning_rate=2e-3,
    formats=("state_dict",),
)
