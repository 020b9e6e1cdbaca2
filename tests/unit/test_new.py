"""`vestal new`: created models work at once; invalid names, texts and arguments are refused."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vestal.cli.new import new
from vestal.cli.pack import pack as pack_command
from vestal.cli.run import run as run_command
from vestal.errors import UsageError, VestalError
from vestal.model_folders import find_model, support_files
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.scaffold import TASKS, create
from vestal.training.settings import Settings
from vestal.training.train import train
from vestal_handlers.model_files import load_module

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One model of every task; their names are not Python identifiers."""
    project = Project(tmp_path_factory.mktemp("project"))
    for task in TASKS:
        create(project, f"my-{task}.2", task)
    return project


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


@pytest.mark.slow
def test_created_tests_pass(project):
    assert "7 passed" in python(project.root, "pytest", "-q", "models")
    left = {path.name for path in project.root.iterdir()}
    assert left <= {"models", ".pytest_cache"}  # no runs and archives


def test_created_models_pass_ruff(project):
    # With the repository's configuration, like the zoo.
    python(REPOSITORY, "ruff", "check", "--no-cache", project.models)
    python(REPOSITORY, "ruff", "format", "--check", "--no-cache", project.models)


@pytest.mark.slow
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
    packed = {"model.py", "transforms.py"} & names
    assert set(support_files(folder)) == packed
    readme = (folder / "README.md").read_text()
    assert f"vestal pack {folder.name} --version 1.0" in readme
    assert "$" not in readme
    for file in folder.glob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text()))
        assert len(file.read_text().splitlines()) < 70


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


@pytest.mark.heavy
def test_a_custom_model_packs_and_runs_without_a_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    create(project, "scorer", "custom")
    module = load_module(find_model(project, "scorer"), "model").build().eval()
    torch.save(module.state_dict(), "scorer.pt")
    torch.jit.script(module).save("scripted.pt")
    with pytest.raises(UsageError, match=r"scorer has no recipe\.py, .*--weights FILE"):
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
    with pytest.raises(UsageError, match=r"has no model\.py, which a state_dict is loaded into"):
        pack_command("scorer", "3.0", weights="scorer.pt")
    pack_command("scorer", "3.0", weights="scripted.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,class\na,b\n", r"has no column 'label'; .*it has text, class"),
        ("text;label\na;b\n", r"the columns seem to be separated by ';'"),
        ("text\tlabel\na\tb\n", r"the columns seem to be separated by tabs"),
        ("text,label\n" + "a,x\n" * 20, r"has 1 classes"),
        ("text,label\n" + "a,x\n" * 20 + "b,y\n" * 3, r"y has 3; at least 2 classes with 10"),
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


def test_the_command_prints_the_files_and_the_next_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    new("mine", "image_classifier")
    printed = capsys.readouterr().out
    assert f"Created {tmp_path / 'models' / 'mine'}:" in printed
    assert "Next: vestal train mine --dataset digits" in printed
    new("other", "image_classifier", as_json=True)
    assert "model.py" in json.loads(capsys.readouterr().out)["files"]
