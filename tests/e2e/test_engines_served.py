"""Archives of other engines on a real server: int8, a Hugging Face folder, compiled code."""

from __future__ import annotations

import os
import shutil

import psutil
import pytest
import requests
import transformers
from compilers import require_compiler
from kept import client_of
from pretrained_folders import FOLDERS, TEXTS

from vestal.archive.pack import pack
from vestal.fleet.server import Server
from vestal.mar.sample import read_sample
from vestal.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("folder") / "texts"
    FOLDERS["text-classification"](made)
    return made


@pytest.fixture(scope="module")
def archives(trained_project, folder):
    int8 = pack(trained_project, "mnist", version="5.0", engine="openvino", precision="int8")
    texts = pack(trained_project, "texts", version="1.0", weights=folder, engine="openvino")
    return {"mnist": int8.archive, "texts": texts.archive}


@pytest.fixture(scope="module")
def server(trained_project, archives):
    names = [archive.name for archive in archives.values()]
    with Server(trained_project, names, port=0) as running:
        yield running


def test_int8_predicts_over_http_what_it_predicts_here(server, archives):
    sample = read_sample(archives["mnist"])
    with client_of(server) as client:
        answer = client.predict("mnist", sample.input, version="5.0").value
        described = client.describe("mnist", "5.0", customized=True)
    assert sample.difference(answer) is None
    engine = described.customized["engine"]
    assert (engine["name"], engine["precision"]) == ("openvino", "int8")


def test_a_folder_of_transformers_predicts_what_transformers_predicts(server, folder):
    theirs = transformers.pipeline("text-classification", model=str(folder), device="cpu")
    with client_of(server) as client:
        for text in TEXTS[:4]:
            ours, (best,) = client.predict("texts", text).value, theirs(text)
            assert ours["label"] == best["label"]
            assert ours["probability"] == pytest.approx(best["score"], abs=1e-5)


def test_metrics_name_engine_and_precision(server):
    page = requests.get(f"{server.ready.metrics}/metrics", timeout=10).text
    lines = [line for line in page.splitlines() if line.startswith("vestal_engine_info{")]
    assert any('engine="openvino"' in line and 'precision="int8"' in line for line in lines), lines


def test_no_worker_pins_its_threads(server):
    allowed = os.sched_getaffinity(0)
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "model_service_worker" in " ".join(process.cmdline())
    ]
    assert workers
    for worker in workers:
        for thread in worker.threads():
            assert os.sched_getaffinity(thread.id) == allowed


def test_compiled_code_predicts_over_http_what_the_weights_predict(trained_project, tmp_path):
    require_compiler()
    project = Project(tmp_path / "project")  # the other has a server
    shutil.copytree(trained_project.runs, project.runs)
    packed = pack(project, "mnist", version="6.0", engine="compiled")
    sample = read_sample(packed.archive)
    with Server(project, [packed.archive.name], port=0, timeout=300) as server:
        with client_of(server) as client:
            answer = client.predict("mnist", sample.input).value
            engine = client.describe("mnist", customized=True).customized["engine"]
        workers = [
            each.cmdline()
            for each in psutil.Process().children(recursive=True)
            if each.is_running()
        ]
    assert sample.difference(answer) is None
    assert (engine["name"], engine["precision"]) == ("compiled", "fp32")
    assert engine["built_for"]["cpu"]
    # Inductor's own processes for compilation would be beside the worker.
    assert not any("compile_worker" in " ".join(command) for command in workers)
