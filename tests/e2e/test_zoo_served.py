"""The seven models of the zoo on one server, with the commands of their READMEs."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys

import pytest
from fuzzing import mutate
from same_answers import assert_same, send_to_handler, send_to_server
from serving import serving

from vestal.client import Client, RequestRefused
from vestal.inprocess import LoadedArchive
from vestal.inprocess.frontend import Frontend
from vestal.mar.sample import find_difference, read_sample
from vestal.model_folders import zoo

pytestmark = pytest.mark.slow

SEVEN = ["fashion_mlp", "gpt2", "lenet5", "mnist", "regression", "resnet18", "simplenet"]
MUTATED = 10
"""Mutated bodies for each model."""


@pytest.fixture(scope="module")
def server(zoo_project):
    with serving(zoo_project.root) as running:
        models = [f"{name}={name}-1.0.mar" for name in SEVEN]
        running.start("--port", "0", "--timeout", "300", *models)
        running.ready()
        yield running


@pytest.fixture(scope="module")
def client(server):
    ready = server.ready()
    with Client(
        ready.inference, management=ready.management, key_file=ready.key_file, timeout=60
    ) as calling:
        yield calling


def value_of(sample):
    """Return a sample as an input of a caller: a JSON value, a text, or the bytes of an image."""
    if sample.content_type == "application/json":
        return json.loads(sample.input)
    is_text = sample.content_type.startswith("text/")
    return sample.input.decode() if is_text else sample.input


def commands_of(name):
    """Return the commands under "While it is served", each on one line."""
    page = (zoo() / name / "README.md").read_text("utf-8")
    block = re.search(r"While it is served:\n\n```sh\n(.*?)```", page, re.DOTALL)
    assert block
    return block[1].replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("name", SEVEN)
def test_the_commands_of_the_readme_work(server, zoo_project, name):
    predict, curl = commands_of(name)
    done = subprocess.run(
        [sys.executable, "-m", *predict.split(), "--json"],
        cwd=zoo_project.root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    prediction = json.loads(done.stdout)[0]["answer"]
    address = server.ready().inference
    token = server.token()["Authorization"].removeprefix("Bearer ")
    over_curl = subprocess.run(
        ["sh", "-c", curl.replace("http://127.0.0.1:8080", address)],
        cwd=zoo_project.root,
        env={"VESTAL_TOKEN": token, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert find_difference(json.loads(over_curl.stdout), prediction) is None


@pytest.mark.parametrize("name", SEVEN)
def test_run_responds_as_the_server_does(server, zoo_project, rng, name):
    """Send the sample, mutated copies and a compressed one."""
    archive = zoo_project.model_store / f"{name}-1.0.mar"
    sample = read_sample(archive)
    kind = {"Content-Type": sample.content_type}
    sent = [(kind, sample.input), *((kind, mutate(rng, sample.input)) for _ in range(MUTATED))]
    sent.append(({"Content-Encoding": "gzip", **kind}, gzip.compress(sample.input)))
    address = f"{server.ready().inference}/predictions/{name}"
    frontend = Frontend.of(zoo_project)
    with LoadedArchive(archive) as loaded:
        for number, (headers, body) in enumerate(sent):
            ours = send_to_handler(frontend, loaded, headers, body)
            theirs = send_to_server(address, {**server.token(), **headers}, body)
            assert_same((number, body[:200]), ours, theirs)
            if number == 0:
                assert ours.status == 200
                assert find_difference(sample.answer, ours.json(), sample.tolerance) is None


@pytest.mark.parametrize("name", SEVEN)
def test_a_client_gets_the_packed_prediction_of_the_sample(client, zoo_project, name):
    sample = read_sample(zoo_project.model_store / f"{name}-1.0.mar")
    served = client.predict(name, value_of(sample))
    assert find_difference(sample.answer, served.value, sample.tolerance) is None


@pytest.mark.parametrize("name", SEVEN)
def test_a_model_has_a_description(client, name):
    description = client.describe(name, customized=True).customized
    assert (description["name"], description["version"]) == (name, "1.0")
    assert description["input"]
    assert len(description["artifact_sha256"]) == 64


@pytest.mark.parametrize("name", ["lenet5", "mnist", "regression", "simplenet", "fashion_mlp"])
def test_a_model_explains_its_prediction(client, zoo_project, name):
    sample = read_sample(zoo_project.model_store / f"{name}-1.0.mar")
    explanation = client.explain(name, value_of(sample))
    assert "attributions" in explanation.value


def test_text_generation_uses_the_parameters_of_each_request(client):
    prompts = [
        {"prompt": "The value of", "max_new_tokens": 5},
        {"prompt": "The value of", "max_new_tokens": 2},
        {"prompt": "The value of", "score": True},
        {"prompt": 3},
    ]
    long, short, scored, refused = client.predict_many("gpt2", prompts, concurrency=4)
    assert (long["completion_tokens"], short["completion_tokens"]) == (5, 2)
    assert long["text"].startswith(short["text"])
    assert scored["logprobs"]
    assert refused.status == 422


def test_an_invalid_row_is_refused_by_field_name(client):
    rows = [
        {"bmi": 25.0, "bp": 90.0, "s5": 4.6},
        {"bmi": "25", "bp": 90.0, "s5": 4.6},
        [25.0, 90.0],
    ]
    good, text, short = client.predict_many("regression", rows)
    assert 25 < good["prediction"] < 346
    assert good["units"]
    assert (text.status, short.status) == (422, 422)
    assert "bmi" in text.server_message
    many = client.predict("regression", [[25.0, 90.0, 4.6], [30.0, 100.0, 5.0]])
    assert len(many["predictions"]) == 2
    vector = client.predict("simplenet", {"vector": [0.0] * 2048})
    assert vector["label"] in ("code", "prose")


@pytest.mark.parametrize(
    ("name", "table", "predicted"),
    [
        ("regression", "\ufeffid,s5,bmi,bp,progression\n7,4.5,25,90,150\n", "prediction"),
        ("simplenet", "text,label\nIt rains.,prose\n", "label"),
    ],
)
def test_predict_and_run_accept_a_training_table(server, zoo_project, name, table, predicted):
    """The table has the target, which is not an input."""
    (zoo_project.root / f"{name}.csv").write_text(table, "utf-8")
    found = []
    for command in ("predict", "run"):
        model = name if command == "predict" else f"{name}-1.0.mar"
        done = subprocess.run(
            [sys.executable, "-m", "vestal", command, model, f"{name}.csv", "--json"],
            cwd=zoo_project.root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    (by_predict,) = json.loads(found[0])
    answer = by_predict["answer"]
    assert answer[predicted]
    assert by_predict["row"] == 1
    assert find_difference(answer, json.loads(found[1])["answers"][0]["json"]) is None


def test_a_refused_text_that_looks_like_a_file_gives_a_hint(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seven.png").write_bytes(b"secret")
    with pytest.raises(RequestRefused, match=r"pass pathlib\.Path\('seven\.png'\)"):
        client.predict("mnist", "seven.png")
