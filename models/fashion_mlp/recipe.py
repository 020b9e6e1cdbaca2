"""Data and training of fashion_mlp: the clothes of Fashion-MNIST."""

from torchvision.transforms import v2

from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import DataSet, Recipe
from vestal.training.datasets import digits, fashion_mnist

from .model import build

# Fashion-MNIST's own names, in the order of its classes.
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

recipe = Recipe(
    task="image_classifier",
    build=build,
    objective=Classification(),
    labels=CLOTHES,
    datasets={
        "fashion_mnist": DataSet(load=fashion_mnist, epochs=10),
        # No flips: a mirrored digit is not a digit.
        "digits": DataSet(load=digits, epochs=60, augment=v2.RandomCrop(28, padding=2)),
    },
    batch_size=64,
    learning_rate=1e-3,
    formats=("state_dict", "onnx"),
)
