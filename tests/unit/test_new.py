"""`vestal new`: what it writes works at once, and what it must not write is refused."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from vestal.cli.new import new
from vestal.errors import UsageError, VestalError
from vestal.files.tables import read_table
from vestal.models import find_model, support_files
from vestal.project import Project
from vestal.recipes.recipe import load_recipe, load_transform
from vestal.scaffold import TASKS, create

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One model of every task; a name may hold what Python's may not."""
    made = Project(tmp_path_factory.mktemp("project"))
    for task in TASKS:
        create(made, f"my-{task}.2", task)
    return made


def python(folder, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_written_tests_pass_as_they_train_pack_and_answer(project):
    assert "6 passed" in python(project.root, "pytest", "-q", "models")
    left = {path.name for path in project.root.iterdir()}
    assert left <= {"models", ".pytest_cache"}  # runs and archives stay as they were


def test_what_is_written_is_clean_to_ruff(project):
    # With the repository's configuration, as its zoo.
    python(REPOSITORY, "ruff", "check", "--no-cache", project.models)
    python(REPOSITORY, "ruff", "format", "--check", "--no-cache", project.models)


def test_what_is_written_is_clean_to_mypy(project):
    root, files = project.root.parent, []
    for number, folder in enumerate(sorted(project.models.iterdir())):
        package = root / f"new_model_{number}"  # a folder's own name may be no package's
        package.symlink_to(folder)
        files += sorted(package.glob("*.py"))
    # And with its cache: `make type` has read torch already.
    python(REPOSITORY, "mypy", *files, MYPYPATH=str(root))


@pytest.mark.parametrize("task", TASKS)
def test_a_folder_holds_what_a_model_is(task, project):
    folder = find_model(project, f"my-{task}.2")
    names = {file.name for file in folder.iterdir()}
    expected = {"model.py", "recipe.py", "model-config.yaml", "README.md", f"test_my_{task}_2.py"}
    assert expected <= names
    assert ("transforms.py" in names) == (task != "text_generator")
    assert load_recipe(project, folder.name).task == task
    travels = {"model.py", "transforms.py"} & names
    assert set(support_files(folder)) == travels
    readme = (folder / "README.md").read_text()
    assert f"vestal pack {folder.name} --version 1.0" in readme
    assert "$" not in readme
    for file in folder.glob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text()))
        assert len(file.read_text().splitlines()) < 70


def prices(tmp_path, rows, header="area,rooms,price", name="prices.csv"):
    (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")
    return tmp_path / name


ROWS = [f"{40 + 3 * n},{1 + n % 4},{100_000 + 9_000 * n}" for n in range(20)]


def test_a_table_of_ones_own_becomes_features_moments_and_a_target(tmp_path):
    project = Project(tmp_path)
    made = create(project, "prices", "regressor", prices(tmp_path, ROWS))
    assert (made.folder / "data" / "rows.csv").read_text() == (tmp_path / "prices.csv").read_text()
    config = yaml.safe_load((made.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ["area", "rooms"], "target": "price"}
    train = load_recipe(project, "prices").splits(None).train
    transform = load_transform(project, "prices", "transforms")
    standardized = transform(torch.stack([row for row, _ in train]))
    assert standardized.mean(0).abs().max() < 1e-3
    assert (standardized.std(0) - 1).abs().max() < 1e-3


def test_the_target_may_be_any_column_and_names_may_hold_anything(tmp_path):
    project = Project(tmp_path)
    table = prices(tmp_path, ROWS, '"a: ""b""",rooms # n,größe')
    made = create(project, "prices", "regressor", table, target="rooms # n")
    config = yaml.safe_load((made.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ['a: "b"', "größe"], "target": "rooms # n"}
    assert load_recipe(project, "prices").splits(None).train[0][0].shape == (2,)


def test_json_lines_are_a_table_too(tmp_path):
    lines = [json.dumps({"text": f"to {n}", "label": "ab"[n % 2]}) for n in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    project = Project(tmp_path)
    create(project, "ours", "text_classifier", tmp_path / "t.jsonl")
    splits = load_recipe(project, "ours").splits(None)
    assert list(splits.labels) == ["a", "b"]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [28, 4, 8]


def test_a_text_without_line_ends_is_cut_to_what_the_model_takes(tmp_path):
    (tmp_path / "t.txt").write_text("äöü" * 4000 + "\nline" * 60)
    project = Project(tmp_path)
    create(project, "poet", "text_generator", tmp_path / "t.txt")
    test = load_recipe(project, "poet").splits(None).test
    assert max(len(test[index][0].encode()) for index in range(len(test))) <= 256


REFUSED = {
    "text in a number": (prices, [*ROWS, "many,1,2"], r"row 21 \(line 22\), column area: 'many'"),
    "an underscore": (prices, [*ROWS, "2_5,1,2"], r"column area: '2_5' is not a finite number"),
    "other digits": (prices, [*ROWS, "٢٥,1,2"], r"column area: '٢٥' is not a finite number"),
    "infinity": (prices, [*ROWS, "inf,1,2"], r"column area: 'inf' is not a finite number"),
    "many digits": (
        prices,
        [*ROWS, f"{'9' * 5002},1,2"],
        r"column area: '9{59}\.\.\. is not a fin",
    ),
    "beyond float32": (prices, [*ROWS, "1e39,1,2"], r"column area: '1e39' is beyond float32"),
    "NaN": (
        prices,
        [*ROWS, "nan,1,2"],
        r"column area has no value in 1 of 21 rows \(first in row 21,",
    ),
    "empty": (prices, [*ROWS, "5,,2"], r"column rooms has no value .* fill in a value .*mean"),
    "a row too short": (prices, [*ROWS, "1,2"], r"row 21 \(line 22\) has 2 fields; .* names 3"),
    "a row too long": (prices, [*ROWS, "1,2,3,4"], r"row 21 \(line 22\) has 4 fields"),
    "too few rows": (prices, ROWS[:3], r"has 3 rows: at least 12"),
    "rows for no R2": (prices, ROWS[:11], r"has 11 rows: at least 12"),
    "nothing": (prices, [], r"has 0 rows"),
    "no information": (prices, [f"1,{r}" for r in ROWS], r"area is the same .*--ignore area"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_that_cannot_be_learned_from_is_refused_by_place(kind, tmp_path):
    write, rows, message = REFUSED[kind]
    header = "area,rooms,extra,price" if kind == "no information" else "area,rooms,price"
    with pytest.raises(VestalError, match=message):
        create(Project(tmp_path), "prices", "regressor", write(tmp_path, rows, header))
    assert not list((tmp_path / "models").iterdir())  # nothing, or all of it


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,class\na,b\n", r"has no column 'label'; .*it has text, class"),
        ("text;label\na;b\n", r"the columns seem to be separated by ';'"),
        ("text\tlabel\na\tb\n", r"the columns seem to be separated by tabs"),
        ("text,label\n" + "a,x\n" * 20, r"has 1 classes"),
        ("text,label\n" + "a,x\n" * 20 + "b,y\n" * 3, r"y has 3; at least 2 of 10"),
        (
            "text,label\n" + "a,x\n" * 20 + " ,y\n",
            r"row 21 \(line 22\), column text: the text is empty",
        ),
        (b"text,label\n\xff,x\n", r"is not UTF-8"),
    ],
)
def test_texts_that_cannot_be_learned_from_are_refused_by_place(content, message, tmp_path):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(VestalError, match=message):
        create(Project(tmp_path), "ours", "text_classifier", tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json", r"json is a module of Python's standard library"),
        ("mnist", r"mnist is a model of Vestal's zoo, which yours would hide"),
        ("MNIST", r"zoo"),
        ("", r"'' cannot be part of a file name"),
        ("-x", r"cannot be part"),
        ("../x", r"cannot be part"),
        ("a b", r"cannot be part"),
        ("größe", r"cannot be part"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        create(Project(tmp_path), name, "regressor")
    assert not (tmp_path / "models").exists()


def test_a_folder_that_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"mine is there already, and nothing is overwritten"):
        create(Project(tmp_path), "mine", "image_classifier")
    assert not list((tmp_path / "models" / "mine").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "detector"}, r"no task 'detector': the tasks are image_classifier"),
        ({"task": "image_classifier", "data": Path("d")}, r"--dataset folder --data DIR"),
        ({"task": "text_classifier", "target": "price"}, r"name columns of a regressor's table"),
        ({"task": "regressor", "ignore": ["city"]}, r"name columns of a regressor's table"),
        ({"task": "regressor", "data": Path("nowhere.csv")}, r"no file nowhere\.csv"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        create(Project(tmp_path), "mine", **arguments)


def test_a_column_that_is_not_there_is_named(tmp_path):
    table = prices(tmp_path, ROWS)
    with pytest.raises(UsageError, match=r"no column 'cost': it has area, rooms, price"):
        create(Project(tmp_path), "mine", "regressor", table, target="cost")


CITIES = ["Paris", "Rome", "Oslo"]
HOUSES = [
    f"{row.rsplit(',', 1)[0]},{CITIES[n % 3]},{row.rsplit(',', 1)[1]}" for n, row in enumerate(ROWS)
]
COLUMNS = "area,rooms,city,price"


def houses(tmp_path, *more):
    return prices(tmp_path, [*HOUSES, *more], COLUMNS)


def test_a_text_column_is_offered_to_be_ignored_or_encoded(tmp_path):
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
            prices(tmp_path, notes, f"{COLUMNS},note"),
            target="price",
            encode=["city"],
        )
    assert str(caught.value).endswith(
        "('note 0', 'note 1', 'note 2', ...): leave it out with --ignore note"
    )


def test_a_text_to_predict_is_named(tmp_path):
    with pytest.raises(VestalError, match=r"to predict, city, holds text .* another .*--target"):
        create(Project(tmp_path), "prices", "regressor", houses(tmp_path), target="city")


def test_every_missing_value_is_counted_by_column(tmp_path):
    table = houses(tmp_path, "NA,1,Paris,5", ",2,Rome,6", "1,,Rome,7")
    with pytest.raises(VestalError) as caught:
        create(Project(tmp_path), "prices", "regressor", table, encode=["city"])
    assert "area has no value in 2 of 23 rows (first in row 21, line 22)" in str(caught.value)
    assert "rooms has no value in 1 of 23 rows (first in row 23, line 24)" in str(caught.value)


def test_an_ignored_column_is_no_feature(tmp_path):
    project = Project(tmp_path)
    made = create(project, "prices", "regressor", houses(tmp_path), ignore=["city"])
    config = yaml.safe_load((made.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ["area", "rooms"], "target": "price"}
    assert len(load_recipe(project, "prices").splits(None).train) == 14


def test_an_encoded_column_becomes_one_of_0_and_1_for_each_value(tmp_path):
    project = Project(tmp_path)
    rare = "50,2,Atlantis,150000"
    made = create(project, "prices", "regressor", houses(tmp_path, rare), encode=["city"])
    config = yaml.safe_load((made.folder / "model-config.yaml").read_text())
    features = config["handler"]["features"]
    assert features[:2] == ["area", "rooms"]
    assert {"city_Oslo", "city_Paris", "city_Rome"} <= set(features)
    train = load_recipe(project, "prices").splits(None).train
    transform = load_transform(project, "prices", "transforms")
    standardized = transform(torch.stack([row for row, _ in train]))
    assert (standardized.std(0) - 1).abs().max() < 1e-3
    rows = read_table(made.folder / "data" / "rows.csv").rows
    for row, source in zip(rows, HOUSES, strict=False):
        city = source.split(",")[2]
        assert [row.values[f"city_{name}"] for name in CITIES] == [
            "01"[name == city] for name in CITIES
        ]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"ignore": ["town"]}, r"no column 'town': it has area, rooms, city, price"),
        ({"ignore": ["city"], "encode": ["city"]}, r"city is named twice"),
        ({"target": "city", "encode": ["city"]}, r"city is named twice"),
        ({"ignore": ["area", "rooms", "city"]}, r"has 1 columns to learn from"),
        ({"encode": ["area", "rooms", "city", "price"]}, r"a target of numbers"),
    ],
)
def test_columns_that_cannot_be_chosen_are_refused(chosen, message, tmp_path):
    with pytest.raises(VestalError, match=message):
        create(Project(tmp_path), "prices", "regressor", houses(tmp_path), **chosen)


def test_the_command_says_what_it_wrote_and_what_is_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new("mine", "image_classifier")
    said = capsys.readouterr().out
    assert f"written: {tmp_path / 'models' / 'mine'}" in said
    assert "next: vestal train mine --dataset digits" in said
    new("other", "image_classifier", as_json=True)
    assert "model.py" in json.loads(capsys.readouterr().out)["files"]
