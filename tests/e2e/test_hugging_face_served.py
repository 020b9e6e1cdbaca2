"""Folders of Hugging Face on a running server: every task, and fuzzed requests for each of them."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from fuzzing import mutate
from pretrained_folders import FOLDERS
from pretrained_models import PARAMETERS, REQUESTS, with_fields

from vestal import Client
from vestal.archive.pack import pack
from vestal.fleet.server import Server
from vestal.project import Project

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("FUZZ", "200"))
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    10**30,
    "",
    "x",
    "\ud800",
    "é" * 3000,
    [],
    {},
    [[]],
    ["a", 1],
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A model of each task, from folder to server by `vestal pack` alone."""
    root = tmp_path_factory.mktemp("hugging-face")
    project = Project(root)
    for name, make in FOLDERS.items():
        make(root / "downloads" / name)
        task = name if name in ("zero-shot-classification", "summarization") else None
        pack(project, slug(name), version="1.0", weights=root / "downloads" / name, task=task)
    archives = [f"{slug(name)}-1.0.mar" for name in FOLDERS]
    with Server(project, archives, port=0, timeout=600) as running:
        yield running, project


def slug(name):
    return f"hf-{name.replace(' ', '-')}"


@pytest.fixture
def client(server):
    ready = server[0].ready
    with Client(
        ready.inference, management=ready.management, key_file=ready.key_file, timeout=60
    ) as client:
        yield client


def body(payload):
    if isinstance(payload, bytes):
        return payload, "application/octet-stream"
    return json.dumps(payload).encode(), "application/json"


@pytest.mark.parametrize("name", FOLDERS)
def test_each_task_predicts_on_the_server(client, name):
    for payload in REQUESTS[name]:
        assert client.predict(slug(name), payload).value


@pytest.mark.parametrize("name", FOLDERS)
def test_fuzzed_requests_do_not_affect_the_worker(server, client, name):
    rng = random.Random(0)
    running, project = server
    before = client.describe(slug(name)).workers[0].pid
    url = f"{running.ready.inference}/predictions/{slug(name)}"
    key = json.loads(project.key_file.read_text())["inference"]["key"]
    token = {"Authorization": f"Bearer {key}"}

    names = [field for each in PARAMETERS.get(name, []) for field in each]

    def fuzzed():
        payload = rng.choice(REQUESTS[name])
        if rng.random() < 0.5:
            payload = with_fields(payload, {})
            fields = [*payload, *names, "truncate", "x"]
            payload |= {rng.choice(fields): rng.choice(VALUES)}
            if rng.random() < 0.3:
                inputs = {field: payload[field] for field in list(payload)[:1]}
                payload = {"inputs": rng.choice([inputs, *inputs.values()]), "parameters": payload}
        elif rng.random() < 0.2:
            payload = rng.choice(VALUES)
        data, kind = body(payload)
        if rng.random() < 0.5:
            data = mutate(rng, data)
        kind = rng.choice((kind, kind, "text/plain", "application/json", ""))
        return data, {"Content-Type": kind} if kind else {}

    with ThreadPoolExecutor(8) as pool, requests.Session() as session:
        sent = [fuzzed() for _ in range(COUNT)]
        responses = list(
            pool.map(
                lambda each: session.post(url, each[0], headers={**token, **each[1]}, timeout=120),
                sent,
            )
        )
    wrong = [
        (each[1], each[0][:80], response.text)
        for each, response in zip(sent, responses, strict=True)
        if response.status_code >= 500
    ]
    assert not wrong
    assert {response.status_code for response in responses} & {400, 415, 422}
    assert client.describe(slug(name)).workers[0].pid == before
