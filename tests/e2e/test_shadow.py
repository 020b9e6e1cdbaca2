"""A shadow version behind the gateway: live answers stay as they are, and the report is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from pages import run_page
from serving import START_SECONDS, Serving, serving, until

from vestal.archive.pack import pack
from vestal.configuration.ports import free_ports
from vestal.demo import save_test_images
from vestal.model_folders import zoo
from vestal.shadow.report import make_report
from vestal.training.settings import Settings
from vestal.training.train import train

pytestmark = pytest.mark.slow

CONNECTIONS = 8
# With several requests in a batch, the last digits of a prediction depend on the others.
CONFIG = """
minWorkers: 1
maxWorkers: 1
batchSize: 1
responseTimeout: 60
startupTimeout: 120
handler: {top_k: 3, threads: 1}
"""
SERVING = """
models:
  mnist:
    version: "1.0"
    shadow: {version: "2.0"}
gateway: {port: PORT}
"""


def prepare(project):
    """Train mnist, and one epoch more for version 2.0; return the test images."""
    folder = shutil.copytree(zoo() / "mnist", project.models / "mnist")
    (folder / "model-config.yaml").write_text(CONFIG)
    first = train(project, "mnist", Settings(dataset="digits", epochs=2, device="cpu"))
    more = Settings(dataset="digits", epochs=1, device="cpu", initial_weights=str(first.folder))
    second = train(project, "mnist", more)
    pack(project, "mnist", version="1.0", weights=first.folder)
    pack(project, "mnist", version="2.0", weights=second.folder)
    return [image.file for image in save_test_images(project)]


def vestal(server, *arguments):
    """Run a command that prints JSON; `vestal diff` ends with 1 if predictions differ."""
    done = subprocess.run(
        [sys.executable, "-m", "vestal", *arguments, "--json"],
        cwd=server.project.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
        env={**os.environ, "TMPDIR": str(server.temp), "TEMP": str(server.temp)},
    )
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


class Mirrored:
    """A server with mnist 1.0 and its shadow 2.0; `base`: of the gateway."""

    def __init__(self, server, base, images):
        self.server, self.base, self.images = server, base, images

    def send(self, base, body, **headers):
        sent = {"Content-Type": "application/octet-stream", **self.server.token(), **headers}
        return requests.post(f"{base}/predictions/mnist", data=body, headers=sent, timeout=60)

    def report(self):
        return make_report(self.server.project.shadow, "mnist", None, 1e-4)

    def compared(self):
        return sum(each.compared for each in self.report().comparisons)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("shadow") / "project") as server:
        images = prepare(server.project)
        (port,) = free_ports("127.0.0.1", 1)
        (server.project.root / "serving.yaml").write_text(SERVING.replace("PORT", str(port)))
        server.start("--port", "0")
        server.ready()
        yield Mirrored(server, f"http://127.0.0.1:{port}", images)


def test_live_answers_are_equal_to_the_byte_and_the_report_agrees_with_diff(mirrored):
    server, direct = mirrored.server, mirrored.server.ready().inference
    bodies = [image.read_bytes() for image in mirrored.images]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        expected = list(pool.map(lambda body: mirrored.send(direct, body), bodies))
        assert not server.project.shadow.exists()
        answers = list(pool.map(lambda body: mirrored.send(mirrored.base, body), bodies))
    for right, answer in zip(expected, answers, strict=True):
        assert (answer.status_code, answer.content) == (200, right.content)
        assert answer.headers["x-model-version"] == "1.0"
    until(lambda: mirrored.compared() == len(bodies), START_SECONDS, "every copy")
    found = vestal(server, "shadow", "report", "mnist")
    diff = vestal(server, "diff", "mnist-1.0", "mnist-2.0", "--inputs", "samples")["answers"]
    (comparison,) = found["comparisons"]
    assert (comparison["live"], found["shadow"]) == ("1.0", "2.0")
    assert comparison["compared"] == diff["inputs"] == len(bodies)
    for key in ("different", "statuses", "labels", "texts"):
        assert comparison[key] == diff[key], key
    assert 0 < comparison["labels"] < comparison["different"]
    key = "largest_probability_difference"
    assert comparison[key] == pytest.approx(diff[key], abs=1e-5)
    assert found["not_compared"] == {"live": {}, "shadow": {}}
    assert all(0 < comparison["sides"][side]["p50_seconds"] < 60 for side in ("live", "shadow"))
    # The caller knows the request IDs of the examples.
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert {each["id"] for each in comparison["examples"]} <= ids


def test_errors_are_mirrored_too(mirrored):
    before = mirrored.compared()
    answer = mirrored.send(mirrored.base, b"no image")
    assert answer.status_code == 415
    until(lambda: mirrored.compared() == before + 1, START_SECONDS, "the copy")
    (comparison,) = mirrored.report().comparisons
    assert (comparison.live.rejected, comparison.shadow.rejected) == (1, 1)


def test_a_caller_cannot_mark_requests(mirrored):
    forged = {"x-vestal-shadow": "1", "x-vestal-compare": "9.0", "x-request-id": "forged"}
    before = mirrored.compared()
    assert mirrored.send(mirrored.base, mirrored.images[0].read_bytes(), **forged).ok
    until(lambda: mirrored.compared() == before + 1, START_SECONDS, "the copy")
    assert mirrored.report().shadow == {}
    named = f"{mirrored.base}/predictions/mnist/1.0"
    headers = {**mirrored.server.token(), **forged}
    body = mirrored.images[0].read_bytes()
    assert requests.post(named, data=body, headers=headers, timeout=60).ok
    assert b'"9.0"' not in b"".join(
        file.read_bytes() for file in mirrored.server.project.shadow.rglob("*.jsonl")
    )


def test_a_request_id_that_is_used_twice_is_reported(mirrored):
    before = mirrored.compared()
    body = mirrored.images[0].read_bytes()
    for _ in range(2):
        assert mirrored.send(mirrored.base, body, **{"x-request-id": "twice"}).ok

    def both():
        found = mirrored.report()
        return found.live.get("request ID not unique") == 2 and found.shadow == found.live

    until(both, START_SECONDS, "both copies")
    assert mirrored.compared() == before


def test_a_killed_shadow_harms_no_live_answer(mirrored):
    body = mirrored.images[0].read_bytes()
    right = mirrored.send(mirrored.server.ready().inference, body).content
    before = mirrored.compared()
    workers = mirrored.server.processes("model_service_worker")
    files = {each.pid: [file.path for file in each.open_files()] for each in workers}
    (shadow,) = [
        each for each in workers if any("/shadow/mnist/2.0/" in path for path in files[each.pid])
    ]
    shadow.kill()
    answers = [mirrored.send(mirrored.base, body) for _ in range(50)]
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, right)}

    def compares_again():
        answer = mirrored.send(mirrored.base, body)
        assert (answer.status_code, answer.content) == (200, right)
        return mirrored.compared() > before

    until(compares_again, START_SECONDS, "the shadow's next worker")
    assert mirrored.report().damaged == 0


@pytest.mark.slow
def test_the_guide_compares_two_versions(trained_project, tmp_path):
    (port,) = free_ports("127.0.0.1", 1)
    guide = Path(__file__).parents[2] / "docs" / "guides" / "shadow.md"
    page = tmp_path / "shadow.md"
    page.write_text(guide.read_text("utf-8").replace("8000", str(port)))
    try:
        printed = run_page(page, Serving(trained_project.root, trained_project.root))
    finally:
        if trained_project.state.joinpath("keeper_token").exists():  # a command failed
            subprocess.run([sys.executable, "-m", "vestal", "stop"], cwd=trained_project.root)
    assert "{'1.0'}" in printed
    found = json.loads((trained_project.root / "report.json").read_text())
    (comparison,) = found["comparisons"]
    waiting = sum(found["not_compared"]["live"].values())
    assert comparison["compared"] + waiting == 100
    assert "mnist: live 1.0, shadow 2.0" in printed
    assert not trained_project.ready_file.exists()
