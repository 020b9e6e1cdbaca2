"""config.properties: what is read from it, and what a start lays over it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import yaml

from vestal.errors import UsageError
from vestal.project import Project
from vestal.server.config import METRICS, Configuration, parse

REPOSITORY = Path(__file__).parents[2]
TORCHSERVE = Path(pytest.importorskip("ts").__file__).parent


def configuration(folder, text):
    (folder / "config.properties").write_text(text, encoding="utf-8")
    return Configuration.load(Project(folder))


def test_every_setting_of_ours_is_one_that_torchserve_knows():
    with zipfile.ZipFile(TORCHSERVE / "frontend" / "model-server.jar") as jar:
        known = jar.read("org/pytorch/serve/util/ConfigManager.class")
    # TorchServe ignores a misspelt key in silence; vmargs is read by ts/model_server.py.
    settings = parse((REPOSITORY / "config.properties").read_text())
    assert [key for key in settings if key.encode() not in known] == ["vmargs"]


def test_a_project_without_a_file_gets_ours(tmp_path):
    loaded = Configuration.load(Project(tmp_path))
    assert loaded.source == REPOSITORY / "config.properties"
    assert loaded.model_store == tmp_path / "model_store"
    assert loaded.metrics_config == METRICS
    assert [endpoint.port for endpoint in loaded.endpoints()] == [8080, 8081, 8082, 7070, 7071]


def test_our_lines_come_last_and_the_users_stay(tmp_path):
    loaded = configuration(
        tmp_path, "# Grüße\nload_models=all\nmodels={\\\n  }\njob_queue_size = 7"
    )
    text = loaded.effective(loaded.endpoints(9000), tmp_path / "störe 1")
    assert text.encode("latin-1").startswith("# Grüße\nload_models=all\nmodels={\\\n  }".encode())
    effective = parse(text)
    assert effective["job_queue_size"] == "7"
    assert effective["load_models"] == ""
    assert effective["enable_model_api"] == "true"
    assert effective["inference_address"] == "http://127.0.0.1:9000"
    assert effective["metrics_address"] == "http://127.0.0.1:9002"
    assert effective["allowed_urls"] == "nothing"
    # Java reads the file as Latin-1, and a leading or inner space could be cut off.
    assert effective["model_store"].endswith(r"/st\u00f6re\u00201")


def test_the_users_allowed_urls_stay(tmp_path):
    loaded = configuration(tmp_path, "allowed_urls=https://models.example/.*")
    assert parse(loaded.effective(loaded.endpoints(0), tmp_path))["allowed_urls"] == (
        "https://models.example/.*"
    )


def test_java_options_are_kept_without_a_log_configuration(tmp_path):
    loaded = configuration(tmp_path, "vmargs=-Xmx2g -Dlog4j.configurationFile=x.xml -Da=b")
    assert loaded.java_options == ["-Xmx2g", "-Da=b"]


def test_a_port_gives_three_in_a_row_and_free_ones_to_grpc(tmp_path):
    loaded = configuration(tmp_path, "")
    ports = [endpoint.port for endpoint in loaded.endpoints(9000)]
    assert ports[:3] == [9000, 9001, 9002]
    assert len({*ports, *(endpoint.port for endpoint in loaded.endpoints(0))}) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inference_address=https://127.0.0.1:8080", "inference_address is 'https://"),
        ("grpc_inference_port=many", "grpc_inference_port is 'many', expected a port number"),
        ("metrics_address=http://127.0.0.1:8080", "inference_address and metrics_address are both"),
    ],
)
def test_an_address_that_cannot_be(tmp_path, text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        configuration(tmp_path, text).endpoints()


@pytest.mark.parametrize("port", [-1, 65534])
def test_a_port_that_cannot_be(tmp_path, port):
    with pytest.raises(UsageError, match=f"--port {port}: expected 0"):
        configuration(tmp_path, "").endpoints(port)


def test_a_metrics_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"metrics_config names .*mine\.yaml, which is not there"):
        _ = configuration(tmp_path, "metrics_config=mine.yaml").metrics_config


def test_an_address_for_everybody_is_called_on_this_machine(tmp_path):
    loaded = configuration(tmp_path, "inference_address=http://0.0.0.0:8080")
    assert loaded.endpoints()[0].url == "http://127.0.0.1:8080"


def test_our_metrics_repeat_torchserves_own():
    shipped = yaml.safe_load((TORCHSERVE / "configs" / "metrics.yaml").read_text())
    ours = yaml.safe_load(METRICS.read_text())
    assert ours["ts_metrics"] == shipped["ts_metrics"]
    assert ours["model_metrics"]["gauge"] == shipped["model_metrics"]["gauge"]
    added = [*ours["model_metrics"]["histogram"], *ours["model_metrics"]["counter"]]
    assert {metric["name"] for metric in added} == {
        "vestal_decode_seconds",
        "vestal_forward_seconds",
        "vestal_encode_seconds",
        "vestal_batch_size",
        "vestal_failures_total",
    }
