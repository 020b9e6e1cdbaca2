"""Data and training of resnet18: the classes of ImageNet, or those of a folder of images."""

import pickle
from functools import partial

import torch
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from vestal.errors import VestalError
from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import DataSet, Recipe, Weights
from vestal.training.datasets import digits
from vestal.training.image_folders import image_folder

from .model import build

IMAGENET = ResNet18_Weights.IMAGENET1K_V1
LABELS = tuple(IMAGENET.meta["categories"])


def imagenet() -> Weights:
    """torchvision's weights, downloaded once (69.76 % top-1 accuracy according to torchvision)."""
    module = build(len(LABELS))
    try:
        # resnet18(weights=...) would unpickle any file in torch's cache.
        state = IMAGENET.get_state_dict(progress=True, check_hash=True, weights_only=True)
        module.load_state_dict(state)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise VestalError(
            f"ImageNet's weights are not available ({reason}): download {IMAGENET.url} and pass "
            "the file (vestal train --initial-weights FILE, vestal pack --weights FILE), or use "
            "the weights named random"
        ) from None
    return Weights(module, "ImageNet (torchvision IMAGENET1K_V1)")


def random() -> Weights:
    """Random weights with a fixed seed, for load tests."""
    torch.manual_seed(0)
    return Weights(build(len(LABELS)), "random weights, seed 0: its predictions mean nothing")


recipe = Recipe(
    task="image_classifier",
    build=build,
    objective=Classification(),
    labels=LABELS,
    datasets={
        "folder": DataSet(
            load=image_folder,
            epochs=10,
            initial_weights="imagenet",
            augment=v2.Compose([v2.RandomResizedCrop(256), v2.RandomHorizontalFlip()]),
        ),
        "digits": DataSet(
            load=partial(digits, size=64, channels=3), epochs=3, transforms="transforms_small"
        ),
    },
    batch_size=32,
    learning_rate=1e-3,
    formats=("safetensors",),
    weights={"imagenet": imagenet, "random": random},
)
