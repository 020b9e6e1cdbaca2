"""`vestal new` for a regressor: columns of its table, and the errors in them."""

from __future__ import annotations

import pytest
import torch
import yaml
from house_tables import CITIES, COLUMNS, HOUSES, ROWS, houses, write_table

from vestal.errors import UsageError, VestalError
from vestal.files.tables import read_table
from vestal.project import Project
from vestal.recipes.recipe import load_recipe, load_transform
from vestal.scaffold import create


def test_a_table_becomes_features_moments_and_a_target(tmp_path):
    project = Project(tmp_path)
    created = create(project, "prices", "regressor", write_table(tmp_path, ROWS))
    assert (created.folder / "data" / "rows.csv").read_text() == (
        tmp_path / "prices.csv"
    ).read_text()
    config = yaml.safe_load((created.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ["area", "rooms"], "target": "price"}
    train = load_recipe(project, "prices").splits(None).train
    transform = load_transform(project, "prices", "transforms")
    standardized = transform(torch.stack([row for row, _ in train]))
    assert standardized.mean(0).abs().max() < 1e-3
    assert (standardized.std(0) - 1).abs().max() < 1e-3


def test_a_column_with_special_characters_can_be_the_target(tmp_path):
    project = Project(tmp_path)
    table = write_table(tmp_path, ROWS, '"a: ""b""",rooms # n,größe')
    created = create(project, "prices", "regressor", table, target="rooms # n")
    config = yaml.safe_load((created.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ['a: "b"', "größe"], "target": "rooms # n"}
    assert load_recipe(project, "prices").splits(None).train[0][0].shape == (2,)


REFUSED = {
    "text in a number": ([*ROWS, "many,1,2"], r"row 21 \(line 22\), column area: 'many'"),
    "an underscore": ([*ROWS, "2_5,1,2"], r"column area: '2_5' is not a finite number"),
    "other digits": ([*ROWS, "٢٥,1,2"], r"column area: '٢٥' is not a finite number"),
    "infinity": ([*ROWS, "inf,1,2"], r"column area: 'inf' is not a finite number"),
    "many digits": (
        [*ROWS, f"{'9' * 5002},1,2"],
        r"column area: '9{59}\.\.\. is not a fin",
    ),
    "too large for float32": (
        [*ROWS, "1e39,1,2"],
        r"column area: '1e39' is too large for float32",
    ),
    "NaN": (
        [*ROWS, "nan,1,2"],
        r"column area has no value in 1 of 21 rows \(first in row 21,",
    ),
    "empty": ([*ROWS, "5,,2"], r"column rooms has no value .* fill in a value .*mean"),
    "a row too short": ([*ROWS, "1,2"], r"row 21 \(line 22\) has 2 fields; .* names 3"),
    "a row too long": ([*ROWS, "1,2,3,4"], r"row 21 \(line 22\) has 4 fields"),
    "too few rows": (ROWS[:3], r"has 3 rows; at least 12"),
    "too few rows for R2": (ROWS[:11], r"has 11 rows; at least 12"),
    "no rows": ([], r"has 0 rows"),
    "a constant column": (
        [f"1,{r}" for r in ROWS],
        r"area has the same value .*--ignore area",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_invalid_table_is_refused_with_row_and_column(kind, tmp_path):
    rows, message = REFUSED[kind]
    header = "area,rooms,extra,price" if kind == "a constant column" else "area,rooms,price"
    with pytest.raises(VestalError, match=message):
        create(Project(tmp_path), "prices", "regressor", write_table(tmp_path, rows, header))
    assert not list((tmp_path / "models").iterdir())  # no part of the folder remains


def test_an_unknown_column_is_named(tmp_path):
    table = write_table(tmp_path, ROWS)
    with pytest.raises(UsageError, match=r"no column 'cost': it has area, rooms, price"):
        create(Project(tmp_path), "mine", "regressor", table, target="cost")


def test_the_error_for_a_text_column_offers_to_ignore_or_encode_it(tmp_path):
    with pytest.raises(VestalError) as caught:
        create(Project(tmp_path), "prices", "regressor", houses(tmp_path))
    assert (
        "column city holds text ('Paris', 'Rome', 'Oslo'): leave it out with --ignore city, or "
        in (text := str(caught.value))
    )
    assert text.endswith("or turn its 3 values into columns of 0 and 1 with --encode city")
    notes = [f"{row},note {n}" for n, row in enumerate(HOUSES * 4)]
    with pytest.raises(VestalError) as caught:
        create(
            Project(tmp_path),
            "prices",
            "regressor",
            write_table(tmp_path, notes, f"{COLUMNS},note"),
            target="price",
            encode=["city"],
        )
    assert str(caught.value).endswith(
        "('note 0', 'note 1', 'note 2', ...): leave it out with --ignore note"
    )


def test_a_text_column_as_target_is_refused(tmp_path):
    with pytest.raises(VestalError, match=r"to predict, city, holds text .* another .*--target"):
        create(Project(tmp_path), "prices", "regressor", houses(tmp_path), target="city")


def test_missing_values_are_counted_by_column(tmp_path):
    table = houses(tmp_path, "NA,1,Paris,5", ",2,Rome,6", "1,,Rome,7")
    with pytest.raises(VestalError) as caught:
        create(Project(tmp_path), "prices", "regressor", table, encode=["city"])
    assert "area has no value in 2 of 23 rows (first in row 21, line 22)" in str(caught.value)
    assert "rooms has no value in 1 of 23 rows (first in row 23, line 24)" in str(caught.value)


def test_an_ignored_column_is_not_a_feature(tmp_path):
    project = Project(tmp_path)
    created = create(project, "prices", "regressor", houses(tmp_path), ignore=["city"])
    config = yaml.safe_load((created.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ["area", "rooms"], "target": "price"}
    assert len(load_recipe(project, "prices").splits(None).train) == 14


def test_an_encoded_column_becomes_a_column_of_0_and_1_for_each_value(tmp_path):
    project = Project(tmp_path)
    rare = "50,2,Atlantis,150000"
    created = create(project, "prices", "regressor", houses(tmp_path, rare), encode=["city"])
    config = yaml.safe_load((created.folder / "model-config.yaml").read_text())
    features = config["handler"]["features"]
    assert features[:2] == ["area", "rooms"]
    assert {"city_Oslo", "city_Paris", "city_Rome"} <= set(features)
    train = load_recipe(project, "prices").splits(None).train
    transform = load_transform(project, "prices", "transforms")
    standardized = transform(torch.stack([row for row, _ in train]))
    assert (standardized.std(0) - 1).abs().max() < 1e-3
    rows = read_table(created.folder / "data" / "rows.csv").rows
    for row, source in zip(rows, HOUSES, strict=False):
        city = source.split(",")[2]
        assert [row.values[f"city_{name}"] for name in CITIES] == [
            "01"[name == city] for name in CITIES
        ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ignore": ["town"]}, r"no column 'town': it has area, rooms, city, price"),
        ({"ignore": ["city"], "encode": ["city"]}, r"city is named twice"),
        ({"target": "city", "encode": ["city"]}, r"city is named twice"),
        ({"ignore": ["area", "rooms", "city"]}, r"has 1 columns to learn from"),
        ({"encode": ["area", "rooms", "city", "price"]}, r"a target of numbers"),
    ],
)
def test_an_invalid_choice_of_columns_is_refused(columns, message, tmp_path):
    with pytest.raises(VestalError, match=message):
        create(Project(tmp_path), "prices", "regressor", houses(tmp_path), **columns)
