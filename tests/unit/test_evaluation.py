"""Evaluation: metrics are correct, and equal for weights and archive."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass, replace

import pytest
import torch
import typer
from PIL import Image
from small_models import language_model, packed
from typer.testing import CliRunner

from vestal.archive.pack import pack
from vestal.cli.evaluate import evaluate as command
from vestal.errors import UsageError, VestalError
from vestal.evaluation import evaluate
from vestal.evaluation.predictions import RefusedInput, read_prediction
from vestal.evaluation.sources import ArchiveSource, WeightsSource
from vestal.project import Project
from vestal.recipes.recipe import Splits, load_recipe
from vestal.runs import Run
from vestal.training.image_folders import image_folder
from vestal.weights.import_weights import import_weights

pytestmark = pytest.mark.heavy

REFUSED = RefusedInput(415, "InputError", "not an image")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two versions of mnist with random weights."""
    project = Project(tmp_path_factory.mktemp("evaluation"))
    for version in ("1.0", "2.0"):
        packed(project, "mnist", version)
    return project


def run_command(project, monkeypatch, *arguments):
    monkeypatch.chdir(project.root)
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_class_index_of_a_response_is_read(trained_project):
    recipe = load_recipe(trained_project, "mnist")
    read = read_prediction(recipe, {"label": "7", "index": 7}, "here")
    assert (read, read.class_index) == ("7", 7)
    old = read_prediction(recipe, {"label": "7"}, "an archive of 0.1")
    assert (old, old.class_index) == ("7", None)


def test_weights_and_archive_give_the_accuracy_of_training(trained_project):
    run = Run.read(trained_project.runs / "mnist" / "1")
    recipe = load_recipe(trained_project, "mnist")
    splits = recipe.splits("digits")
    archive = trained_project.model_store / "mnist-1.0.mar"
    progress = []
    evaluations = [
        evaluate(recipe, source, splits, model="mnist", dataset="digits", progress=progress.append)
        for source in (WeightsSource(run), ArchiveSource(archive))
    ]
    assert [one.report.metrics["accuracy"] for one in evaluations] == [run.test["accuracy"]] * 2
    assert evaluations[0].report.confusion == evaluations[1].report.confusion
    assert (evaluations[1].version, evaluations[1].kind, evaluations[1].size) == (
        "1.0",
        "archive",
        360,
    )
    assert progress.count(360) == 2


def test_weights_and_archive_refuse_a_corrupt_image(trained_project, tmp_path):
    for label in "01":
        for part in ("train", "val", "test"):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for number in range(10):
                Image.new("L", (28, 28), 9 * number).save(folder / f"{number}.png")
    (tmp_path / "data" / "test" / "1" / "4.png").write_bytes(b"no image")
    recipe = load_recipe(trained_project, "mnist")
    splits = image_folder(tmp_path / "data", mode="L")
    run = Run.read(trained_project.runs / "mnist" / "1")
    sources = (WeightsSource(run), ArchiveSource(trained_project.model_store / "mnist-1.0.mar"))
    both = [evaluate(recipe, s, splits, model="mnist", dataset="folder") for s in sources]
    assert [len(one.refused) for one in both] == [1, 1]
    assert both[0].refused == both[1].refused
    assert both[0].refused[0]["index"] == 14
    assert both[0].report.metrics == both[1].report.metrics


@dataclass
class Passages:
    texts: list[str]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index], None


def test_perplexity_is_the_same_in_process_and_through_the_handler(tmp_path):
    project = Project(tmp_path)
    source = language_model(tmp_path / "hub")
    run = import_weights(project, "gpt2", str(source), tmp_path / "imported")
    archive = pack(project, "gpt2", version="1.0", weights=str(source)).archive
    recipe = load_recipe(project, "gpt2")
    texts = Passages(["the quick brown fox", "fox", "a fox jumps. \u00e9", "long " * 40])
    splits = Splits(texts, texts, texts)
    both = [
        evaluate(recipe, s, splits, model="gpt2", dataset="texts")
        for s in (WeightsSource(run), ArchiveSource(archive))
    ]
    first, second = (one.report for one in both)
    assert first.metrics["perplexity"] == pytest.approx(second.metrics["perplexity"], rel=1e-5)
    assert first.tokens == second.tokens > 0
    assert [[one["index"] for one in each.refused] for each in both] == [[3], [3]]


def test_a_source_that_refuses_everything_is_an_error(tmp_path):
    project = Project(tmp_path)
    recipe = load_recipe(project, "regression")
    splits = recipe.splits(None)
    rows = splits.test.rows.clone()
    rows[:] = torch.finfo(torch.float32).max
    broken = replace(splits, test=type(splits.test)(rows * 10, splits.test.targets))
    with pytest.raises(VestalError, match=r"refuses every input of diabetes \(89\); .* 4"):
        evaluate(
            recipe,
            ArchiveSource(packed(project, "regression")),
            broken,
            model="regression",
            dataset="diabetes",
        )


def test_the_command_evaluates_weights_and_archives_and_draws_a_plot(trained_project, monkeypatch):
    root = trained_project.root
    done = run_command(trained_project, monkeypatch, "mnist", "--json", "--plot", "out/c.png")
    weights = json.loads(done.stdout)
    assert weights["source"] == str(root / "runs" / "mnist" / "2")  # the newest
    with Image.open(root / "out" / "c.png") as drawn:
        assert min(drawn.size) > 300
    by_file = run_command(trained_project, monkeypatch, "model_store/mnist-2.0.mar", "--json")
    by_version = run_command(trained_project, monkeypatch, "mnist", "--version", "2.0", "--json")
    for done in (by_file, by_version):
        archive = json.loads(done.stdout)
        assert (archive["measured"], archive["version"]) == ("archive", "2.0")
        for key in ("figures", "classes", "confusion", "dataset", "size", "refused"):
            assert archive[key] == weights[key]
    table = run_command(trained_project, monkeypatch, "mnist", "--weights", "runs/mnist/1")
    assert "accuracy" in table.stdout
    assert "precision" in table.stdout


def test_a_regression_is_evaluated_and_drawn(tmp_path, monkeypatch):
    project = Project(tmp_path)
    packed(project, "regression")
    done = run_command(project, monkeypatch, "regression-1.0", "--plot", "r.png")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in ("r2", "mae", "rmse", "89"))
    assert (tmp_path / "r.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "no archive nothing: .*the project's models are"),
        (("mnist-1.0", "--dataset", "cifar"), "this recipe has digits, mnist"),
        (("mnist",), "no weights of mnist"),
        (("mnist", "--version", "9"), "no version 9 of mnist: name one of mnist-1.0"),
        (("http://127.0.0.1:1/predictions/mnist",), "expected a model or an archive, .* --url"),
        (("mnist", "--weights", "x", "--served"), "--weights cannot be combined with --served"),
        (("mnist", "--served"), "no server runs here"),
        (
            ("mnist", "--url", "http://127.0.0.1:1", "--dataset", "digits", "--timeout", 1),
            "127.0.0.1:1",
        ),
    ],
)
def test_the_error_of_a_failed_evaluation_names_the_reason(
    project, monkeypatch, arguments, message
):
    with pytest.raises(VestalError, match=message):
        run_command(project, monkeypatch, *arguments)


def test_an_archive_of_an_unknown_model_requires_a_recipe(project, monkeypatch):
    folder = project.root / "unpacked"
    with zipfile.ZipFile(project.model_store / "mnist-1.0.mar") as content:
        content.extractall(folder)
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"mnist"', '"sevens"'))
    try:
        with pytest.raises(UsageError, match=r"unknown model 'sevens'.*with --recipe"):
            run_command(project, monkeypatch, "unpacked")
        arguments = ("unpacked", "--recipe", "mnist", "--dataset", "digits", "--json")
        done = run_command(project, monkeypatch, *arguments)
        assert json.loads(done.stdout)["model"] == "sevens"
    finally:
        shutil.rmtree(folder)


def test_a_language_model_has_nothing_to_draw(tmp_path, monkeypatch):
    project = Project(tmp_path)
    source = language_model(tmp_path / "hub")
    with pytest.raises(UsageError, match="nothing to draw"):
        run_command(project, monkeypatch, "gpt2", "--weights", source, "--plot", "x.png")
