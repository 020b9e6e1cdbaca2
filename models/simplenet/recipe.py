"""Data and training of simplenet: code or prose."""

from vestal.recipes.objectives import Classification
from vestal.recipes.recipe import DataSet, Recipe

from .model import build
from .training_data import LABELS, code_or_prose

recipe = Recipe(
    task="text_classifier",
    build=build,
    objective=Classification(outputs="probabilities"),
    labels=LABELS,
    datasets={"code_or_prose": DataSet(load=code_or_prose, epochs=6)},
    batch_size=32,
    learning_rate=1e-3,
    formats=("state_dict",),
)
