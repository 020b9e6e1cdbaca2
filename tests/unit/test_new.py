"""`vestal new`: created models work at once; invalid names, tables and texts are refused."""

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
from vestal.cli.pack import pack as pack_command
from vestal.cli.run import run as run_command
from vestal.errors import UsageError, VestalError
from vestal.files.tables import read_table
from vestal.model_folders import find_model, support_files
from vestal.project import Project
from vestal.recipes.recipe import load_recipe, load_transform
from vestal.scaffold import TASKS, create
from vestal.training.settings import Settings
from vestal.training.train import train
from vestal_handlers.model_files import load_module

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One model of every task; their names are not Python identifiers."""
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


def test_created_tests_pass(project):
    assert "7 passed" in python(project.root, "pytest", "-q", "models")
    left = {path.name for path in project.root.iterdir()}
    assert left <= {"models", ".pytest_cache"}  # the tests leave runs and archives alone


def test_created_models_pass_ruff(project):
    # With the repository's configuration, as its zoo.
    python(REPOSITORY, "ruff", "check", "--no-cache", project.models)
    python(REPOSITORY, "ruff", "format", "--check", "--no-cache", project.models)


def test_created_models_pass_mypy(project):
    root, files = project.root.parent, []
    for number, folder in enumerate(sorted(project.models.iterdir())):
        package = root / f"new_model_{number}"  # the name of the folder is not a package's
        package.symlink_to(folder)
        files += sorted(package.glob("*.py"))
    # The cache of `make type` saves the time to analyse torch.
    python(REPOSITORY, "mypy", *files, MYPYPATH=str(root))


@pytest.mark.parametrize("task", TASKS)
def test_a_created_folder_is_a_complete_model(task, project):
    folder = find_model(project, f"my-{task}.2")
    names = {file.name for file in folder.iterdir()}
    defined_by = "handler.py" if task == "custom" else "recipe.py"
    expected = {"model.py", defined_by, "model-config.yaml", "README.md", f"test_my_{task}_2.py"}
    assert expected <= names
    assert ("transforms.py" in names) == (task not in ("text_generator", "custom"))
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


def test_a_table_becomes_features_moments_and_a_target(tmp_path):
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


def test_any_column_can_be_the_target_whatever_its_name(tmp_path):
    project = Project(tmp_path)
    table = prices(tmp_path, ROWS, '"a: ""b""",rooms # n,größe')
    made = create(project, "prices", "regressor", table, target="rooms # n")
    config = yaml.safe_load((made.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ['a: "b"', "größe"], "target": "rooms # n"}
    assert load_recipe(project, "prices").splits(None).train[0][0].shape == (2,)


def test_json_lines_are_read_as_a_table(tmp_path):
    lines = [json.dumps({"text": f"to {n}", "label": "ab"[n % 2]}) for n in range(40)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    project = Project(tmp_path)
    create(project, "ours", "text_classifier", tmp_path / "t.jsonl")
    splits = load_recipe(project, "ours").splits(None)
    assert list(splits.labels) == ["a", "b"]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [28, 4, 8]


def test_a_text_without_line_ends_is_cut_to_the_context_of_the_model(tmp_path):
    (tmp_path / "t.txt").write_text("äöü" * 4000 + "\nline" * 60)
    project = Project(tmp_path)
    create(project, "poet", "text_generator", tmp_path / "t.txt")
    test = load_recipe(project, "poet").splits(None).test
    assert max(len(test[index][0].encode()) for index in range(len(test))) <= 256


def test_a_custom_model_packs_and_runs_without_a_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    create(project, "scorer", "custom")
    module = load_module(find_model(project, "scorer"), "model").build().eval()
    torch.save(module.state_dict(), "scorer.pt")
    torch.jit.script(module).save("scripted.pt")
    with pytest.raises(UsageError, match=r"scorer has no recipe\.py .*--weights FILE"):
        pack_command("scorer", "1.0")
    pack_command("models/scorer/", "1.0", weights="scorer.pt")
    pack_command("scorer", "2.0", weights="scripted.pt")
    capsys.readouterr()
    expected = module(torch.tensor([0.1, 0.2, 0.3, 0.4])).item()
    for name, weights in (("scorer-1.0", None), ("scorer-2.0", None), ("scorer", "scorer.pt")):
        run_command(name, body=["[0.1, 0.2, 0.3, 0.4]"], weights=weights, as_json=True)
        (answer,) = json.loads(capsys.readouterr().out)["answers"]
        assert answer["json"]["score"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UsageError, match=r"no data set to train or evaluate with"):
        train(project, "scorer", Settings(device="cpu"))
    (tmp_path / "models" / "scorer" / "model.py").unlink()
    with pytest.raises(UsageError, match=r"has no model\.py to load weights by name into"):
        pack_command("scorer", "3.0", weights="scorer.pt")
    pack_command("scorer", "3.0", weights="scripted.pt")


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
    "too large for float32": (
        prices,
        [*ROWS, "1e39,1,2"],
        r"column area: '1e39' is too large for float32",
    ),
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
    "no information": (
        prices,
        [f"1,{r}" for r in ROWS],
        r"area has the same value .*--ignore area",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_invalid_table_is_refused_with_row_and_column(kind, tmp_path):
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
def test_invalid_texts_are_refused_with_row_and_column(content, message, tmp_path):
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
        ("", r"invalid model name ''"),
        ("-x", r"invalid model name"),
        ("../x", r"invalid model name"),
        ("a b", r"invalid model name"),
        ("größe", r"invalid model name"),
    ],
)
def test_an_invalid_name_is_refused(name, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        create(Project(tmp_path), name, "regressor")
    assert not (tmp_path / "models").exists()


def test_an_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"mine exists and is not overwritten"):
        create(Project(tmp_path), "mine", "image_classifier")
    assert not list((tmp_path / "models" / "mine").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "detector"}, r"unknown task 'detector': expected one of image_classifier"),
        ({"task": "image_classifier", "data": Path("d")}, r"--dataset folder --data DIR"),
        ({"task": "text_classifier", "target": "price"}, r"name columns of a regressor's table"),
        ({"task": "custom", "data": Path("d.csv")}, r"a custom model is only served"),
        ({"task": "regressor", "ignore": ["city"]}, r"name columns of a regressor's table"),
        ({"task": "regressor", "data": Path("nowhere.csv")}, r"no file nowhere\.csv"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        create(Project(tmp_path), "mine", **arguments)


def test_an_unknown_column_is_named(tmp_path):
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
            prices(tmp_path, notes, f"{COLUMNS},note"),
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
    made = create(project, "prices", "regressor", houses(tmp_path), ignore=["city"])
    config = yaml.safe_load((made.folder / "model-config.yaml").read_text())
    assert config["handler"] == {"features": ["area", "rooms"], "target": "price"}
    assert len(load_recipe(project, "prices").splits(None).train) == 14


def test_an_encoded_column_becomes_a_column_of_0_and_1_for_each_value(tmp_path):
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
def test_an_invalid_choice_of_columns_is_refused(chosen, message, tmp_path):
    with pytest.raises(VestalError, match=message):
        create(Project(tmp_path), "prices", "regressor", houses(tmp_path), **chosen)


def test_the_command_prints_the_files_and_the_next_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new("mine", "image_classifier")
    printed = capsys.readouterr().out
    assert f"Created {tmp_path / 'models' / 'mine'}:" in printed
    assert "Next: vestal train mine --dataset digits" in printed
    new("other", "image_classifier", as_json=True)
    assert "model.py" in json.loads(capsys.readouterr().out)["files"]
