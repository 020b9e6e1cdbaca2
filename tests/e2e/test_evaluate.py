"""`vestal evaluate` gives the same metrics for weights, archive and server."""

from __future__ import annotations

import json

import pytest
import typer
from small_models import language_model, packed
from typer.testing import CliRunner

from vestal.archive.pack import pack
from vestal.cli.evaluate import evaluate
from vestal.cli.predict import predict
from vestal.fleet.server import Server
from vestal.project import Project

pytestmark = pytest.mark.slow

MODELS = ["mnist=mnist-1.0.mar", "regression-1.0.mar", "gpt2-1.0.mar"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Archives of random weights, with the weights: equality does not depend on accuracy."""
    made = Project(tmp_path_factory.mktemp("project"))
    packed(made, "mnist")
    packed(made, "regression")
    return made


@pytest.fixture(scope="module")
def hub(project):
    return language_model(project.root / "hub", context=2048)  # every byte is a token


@pytest.fixture(scope="module")
def server(project, hub):
    pack(project, "gpt2", version="1.0", weights=str(hub))
    with Server(project, MODELS, port=0) as running:
        yield running


@pytest.fixture
def vestal(project, server, monkeypatch):
    """Run a command in the project and return its JSON."""
    monkeypatch.chdir(project.root)
    app = typer.Typer()
    for command in (evaluate, predict):
        app.command()(command)

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert done.exit_code == code, done.exception or done.output
        return json.loads(done.stdout)

    return run


def test_accuracy_is_equal_in_process_in_the_archive_and_over_http(vestal, server):
    url = server.ready.inference
    measured = [
        vestal("evaluate", "mnist", "--weights", "mnist.pth", "--dataset", "digits"),
        vestal("evaluate", "model_store/mnist-1.0.mar", "--dataset", "digits"),
        vestal("evaluate", "mnist", "--url", url, "--dataset", "digits"),
    ]
    assert [one["measured"] for one in measured] == ["weights", "archive", "server"]
    for same in ("figures", "classes", "confusion", "size", "refused"):
        assert measured[0][same] == measured[1][same] == measured[2][same]
    assert measured[2]["version"] == "1.0"
    assert measured[2]["source"] == f"{url}/predictions/mnist"


def test_a_served_model_needs_no_address(vestal):
    found = vestal("evaluate", "mnist", "--served", "--dataset", "digits", "--version", "1.0")
    assert found["size"] == 360
    assert found["source"].endswith("/predictions/mnist/1.0")
    for name in ("mnist-1.0", "model_store/mnist-1.0.mar"):
        named = vestal("evaluate", name, "--served", "--dataset", "digits")
        assert {**named, "seconds": found["seconds"]} == found


def test_figures_of_numbers_agree_over_http(vestal, server):
    archive = vestal("evaluate", "regression-1.0")
    served = vestal("evaluate", "regression", "--url", server.ready.inference)
    assert served["figures"] == pytest.approx(archive["figures"], rel=1e-6)


def test_perplexity_agrees_over_http(vestal, hub):
    weights = vestal("evaluate", "gpt2", "--weights", hub, "--dataset", "pydoc_topics")
    served = vestal("evaluate", "gpt2", "--served", "--dataset", "pydoc_topics")
    assert len(served["refused"]) == len(weights["refused"])
    assert served["figures"] == pytest.approx(weights["figures"], rel=1e-5)


def test_texts_and_rows_are_predicted(vestal):
    (row,) = vestal("predict", "regression", "--row", "bmi=25,bp=90,s5=4.5")
    assert row["columns"] == {"bmi": 25, "bp": 90, "s5": 4.5}
    assert row["answer"]["units"] == "progression one year after baseline"
    texts = vestal("predict", "gpt2", "--text", "fox", "--text", "the quick", "--timeout", 60)
    assert [one["text"] for one in texts] == ["fox", "the quick"]
    assert all(one["answer"]["finish_reason"] for one in texts)
    failed = vestal("predict", "regression", "--row", "bmi=25", code=1)
    assert failed[0]["error"]["status"] == 422
