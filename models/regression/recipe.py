"""Diabetes a year on, from body mass index, blood pressure and s5: what to train on and how."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from vestal.training.objectives import Regression
from vestal.training.recipe import DataSet, Recipe, Splits
from vestal.training.tables import Rows

from .model import build

FEATURES = ("bmi", "bp", "s5")
SPLIT_SEED = 0  # of the data, whatever the training's seed


def everything() -> Rows:
    """scikit-learn's bundled diabetes data (Efron et al., 2004): 442 patients.

    bmi in kg/m2, bp (average blood pressure) in mmHg, s5 (log of serum triglycerides); the target
    is a measure of the disease's progression one year later, 25 to 346.
    """
    bunch = load_diabetes(scaled=False)
    columns = [bunch.feature_names.index(name) for name in FEATURES]
    rows = torch.from_numpy(bunch.data[:, columns]).float()
    return Rows(rows, torch.from_numpy(bunch.target).float())


def diabetes(data: Path | None = None) -> Splits:
    """70 % train, 10 % validation, 20 % test. `data` is not needed."""
    rows = everything()
    rest, test = train_test_split(np.arange(len(rows)), test_size=0.2, random_state=SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=0.125, random_state=SPLIT_SEED)
    return Splits(rows.pick(train), rows.pick(validation), rows.pick(test))


recipe = Recipe(
    task="regressor",
    build=build,
    objective=Regression(),
    datasets={"diabetes": DataSet(load=diabetes, epochs=60)},
    batch_size=32,
    learning_rate=3e-2,
    patience=20,
    saves=("state_dict",),
)
