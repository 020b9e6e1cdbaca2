"""Data and training of regression: diabetes progression from bmi, blood pressure and s5."""

import torch

from vestal.recipes.objectives import Regression
from vestal.recipes.recipe import DataSet, Recipe, Splits
from vestal.training.datasets import split
from vestal.training.tables import Rows

from .model import build

FEATURES = ("bmi", "bp", "s5")


def everything() -> Rows:
    """scikit-learn's bundled diabetes data (Efron et al., 2004): 442 patients.

    bmi in kg/m2, bp (average blood pressure) in mmHg, s5 (log of serum triglycerides); the target
    is a measure of the disease's progression one year later, 25 to 346.
    """
    from sklearn.datasets import load_diabetes  # imported late: it takes seconds

    bunch = load_diabetes(scaled=False)
    columns = [bunch.feature_names.index(name) for name in FEATURES]
    rows = torch.from_numpy(bunch.data[:, columns]).float()
    return Rows(rows, torch.from_numpy(bunch.target).float())


def diabetes() -> Splits:
    """70 % train, 10 % validation, 20 % test."""
    return split(everything())


recipe = Recipe(
    task="regressor",
    build=build,
    objective=Regression(),
    datasets={"diabetes": DataSet(load=diabetes, epochs=60)},
    batch_size=32,
    learning_rate=3e-2,
    patience=20,
    formats=("state_dict",),
)
