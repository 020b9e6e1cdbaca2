"""Unusual settings, paths and locales on a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from doubling import write_doubler
from serving import END_SECONDS, archive, serving, until

from vestal import Client, UnknownMetric
from vestal.configuration.ports import free_ports
from vestal_handlers.metrics import HISTOGRAMS

# A locale that is not installed, as an SSH session may set it.
LOCALE = ("-u", "LANG", "-u", "LC_CTYPE", "LC_ALL=xx_YY.UTF-8")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A folder name that is not ASCII, a missing locale, and a file in Java's syntax."""
    with serving(tmp_path_factory.mktemp("settings") / "Größe ☃") as server:
        inference, management, metrics = free_ports("127.0.0.1", 3)
        server.project.config.write_bytes(
            b"\xef\xbb\xbfinference_address: http\\://127.0.0.1\\:%d\n"
            b"management_address http://127.0.0.1:%d\r\n"
            b"metrics_address=http://127.0.0.1:\\\n    %d\n"
            b"job_queue_sise=4\n" % (inference, management, metrics)
        )
        source = write_doubler(server.temp / "doubler")
        server.project.model_store.mkdir()
        doubler = server.project.model_store / "doubler-1.0.mar"
        shutil.make_archive(str(doubler.with_suffix("")), "zip", source)
        doubler.with_suffix(".zip").rename(doubler)
        shutil.rmtree(source)
        server.run("env", *LOCALE, sys.executable, "-m", "vestal", "serve")
        ready = server.ready()
        assert [int(url.rpartition(":")[2]) for url in (ready.inference, ready.management)] == [
            inference,
            management,
        ]
        assert ready.metrics == f"http://127.0.0.1:{metrics}"
        yield server


@pytest.fixture(scope="module")
def client(server):
    ready = server.ready()
    with Client(
        ready.inference,
        management=ready.management,
        metrics=ready.metrics,
        key_file=server.project.key_file,
    ) as client:
        yield client


def test_the_start_reports_its_settings(server):
    assert "job_queue_sise is unknown and has no effect; did you mean job_queue_size?" in server.err
    assert "byte order mark" in server.err
    assert "metrics_mode=prometheus" in server.err


def test_requests_without_a_version_are_counted_under_the_actual_version(client):
    before = client.metrics().total("vestal_batch_size_sum", model_version="1.0")
    for _ in range(3):
        assert client.predict("doubler", 2)["doubled"] == 4
    until(lambda: counted(client, "batch_size_sum") >= before + 3, 10, "the counted requests")
    assert counted(client, "batch_size_sum") == before + 3
    metrics = client.metrics()
    assert metrics.total("ts_inference_requests_total", model_version="default") >= 3


def counted(client, name):
    return client.metrics().total(f"vestal_{name}", model_version="1.0")


def test_a_metric_without_samples_is_zero_and_an_unknown_one_an_error(client):
    metrics = client.metrics()
    assert metrics.total("vestal_failures_total") == 0
    with pytest.raises(UnknownMetric, match="Did you mean ts_inference_requests_total"):
        metrics.total("ts_inference_request_total")
    hosts = {sample.labels.get("hostname") for sample in metrics if "Hostname" in sample.labels}
    assert hosts == set()


def test_every_request_and_batch_of_a_burst_is_counted(server, client):
    """Failures are counted here, because the keeper's descriptions are requests, too."""
    url, token = f"{server.ready().inference}/predictions/doubler", server.token()
    before = counted(client, "batch_size_sum")
    with ThreadPoolExecutor(8) as pool:
        sent = [
            pool.submit(requests.post, url, headers=token, json="two", timeout=30)
            for _ in range(200)
        ]
    assert {each.result().status_code for each in sent} == {422}
    until(lambda: counted(client, "failures_total") >= 200, 10, "the counted failures")

    def is_settled():
        metrics = client.metrics()
        return len({metrics.total(f"vestal_{name}_count") for name in HISTOGRAMS}) == 1

    until(is_settled, 10, "the same number of batches in every histogram")
    assert counted(client, "failures_total") == 200
    assert counted(client, "batch_size_sum") >= before + 200


def test_a_description_contains_nothing_about_the_host(server, client):
    described = requests.post(
        f"{server.ready().inference}/predictions/doubler",
        headers={**server.token(), "Describe": "True"},
        data=b"1",
        timeout=30,
    ).json()
    (worker,) = client.describe("doubler").workers
    assert described["worker"]
    assert str(worker.pid) not in json.dumps(described)
    assert "pid" not in described


def test_health_checks_without_a_token(server):
    """docs/guides/serve.md lists these for load balancers and probes."""
    ready = server.ready()
    assert requests.get(f"{ready.inference}/ping", timeout=30).status_code == 400
    assert requests.get(f"{ready.inference}/ping", headers=server.token(), timeout=30).ok
    assert requests.get(f"{ready.inference}/api-description", timeout=30).ok
    assert requests.options(ready.inference, timeout=30).ok
    assert requests.get(f"{ready.metrics}/metrics", timeout=30).ok


@pytest.mark.slow
def test_tokens_can_be_turned_off_in_every_syntax(tmp_path):
    with serving(tmp_path / "project") as server:
        server.project.config.write_text("disable_token_authorization: true\n")
        archive(server.project.model_store, "echo")
        server.start("--port", "0")
        ready = server.ready()
        assert ready.key_file is None
        assert requests.get(f"{ready.inference}/ping", timeout=30).ok
        server.close()
        assert server.exit_code(END_SECONDS) == 0


def test_an_invalid_setting_gives_one_sentence(tmp_path):
    (tmp_path / "model_store").mkdir()
    (tmp_path / "config.properties").write_text("# comment\nvmargs=-Da='b\n")
    done = subprocess.run(
        [sys.executable, "-m", "vestal", "serve"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "config.properties, line 2: vmargs is" in line
