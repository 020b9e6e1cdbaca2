"""config.properties: parsing, defaults, and the settings of a start."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import javaproperties
import pytest
import yaml

from vestal.configuration import settings
from vestal.configuration.config import METRICS, Configuration
from vestal.configuration.notices import notices
from vestal.configuration.properties import read_properties
from vestal.errors import UsageError
from vestal.project import Project

REPOSITORY = Path(__file__).parents[2]
TORCHSERVE = Path(pytest.importorskip("ts").__file__).parent


def configuration(folder, text):
    content = text if isinstance(text, bytes) else text.encode("latin-1")
    (folder / "config.properties").write_bytes(content)
    return Configuration.load(Project(folder))


def read_by_torchserve(loaded, port=None):
    return javaproperties.loads(loaded.effective(loaded.endpoints(port), loaded.model_store))


def test_torchserve_has_every_setting_that_vestal_knows():
    with zipfile.ZipFile(TORCHSERVE / "frontend" / "model-server.jar") as jar:
        known = jar.read("org/pytorch/serve/util/ConfigManager.class")
    # vmargs and plugins_path are read by ts/model_server.py, keeper_address by Vestal.
    foreign = {key for key in settings.KNOWN if key.encode() not in known}
    assert foreign == {"vmargs", "plugins_path", "keeper_address"}
    assert len(set(settings.KNOWN)) == len(settings.KNOWN)


def test_every_setting_of_vestals_file_is_known():
    ours = read_properties(REPOSITORY / "config.properties")
    assert ours.values.keys() <= set(settings.KNOWN)
    assert ours.warnings == []


def test_a_project_without_a_file_gets_vestals(tmp_path):
    loaded = Configuration.load(Project(tmp_path))
    assert loaded.source == REPOSITORY / "config.properties"
    assert loaded.model_store == tmp_path / "model_store"
    assert loaded.metrics_config == METRICS
    assert [endpoint.port for endpoint in loaded.endpoints()] == [8080, 8081, 8082, 7070, 7071]


def test_user_settings_replace_defaults_and_a_start_replaces_both(tmp_path):
    loaded = configuration(
        tmp_path, "# Grüße\nload_models=all\nmodels={\\\n  }\njob_queue_size = 7"
    )
    effective = read_by_torchserve(loaded, 9000)
    assert (effective["models"], effective["job_queue_size"]) == ("{}", "7")
    assert effective["load_models"] == ""
    assert effective["enable_model_api"] == "true"
    assert effective["inference_address"] == "http://127.0.0.1:9000"
    assert effective["metrics_address"] == "http://127.0.0.1:9002"
    # For Vestal's features; and no URLs (CVE-2023-43654).
    assert effective["metrics_mode"] == "prometheus"
    assert effective["metrics_config"] == str(METRICS)
    assert effective["decode_input_request"] == "false"
    assert effective["allowed_urls"] == "nothing"


@pytest.mark.parametrize("name", ["störe 1", " a=b:c#!", "日本\\n", "😀\ttab"])
def test_java_gets_every_path_unchanged(tmp_path, name):
    loaded = configuration(tmp_path, "")
    text = loaded.effective(loaded.endpoints(0), tmp_path / name)
    assert text.isascii()
    assert javaproperties.loads(text)["model_store"] == str(tmp_path / name)


def test_relative_paths_start_at_the_project(tmp_path):
    loaded = configuration(tmp_path, "keystore=keys/mine.p12\nworkflow_store=\nplugins_path=/p")
    effective = read_by_torchserve(loaded)
    assert effective["keystore"] == str(tmp_path / "keys/mine.p12")
    assert effective["plugins_path"] == "/p"
    assert "workflow_store" not in effective


def test_allowed_urls_of_the_user_are_kept(tmp_path):
    loaded = configuration(tmp_path, "allowed_urls=https://models.example/.*")
    assert read_by_torchserve(loaded, 0)["allowed_urls"] == "https://models.example/.*"


JAVA_FORMS = [
    "inference_address: http\\://127.0.0.1\\:9000\ndisable_token_authorization: true\n",
    "inference_address http://127.0.0.1:9000\r\ndisable_token_authorization TRUE\r\n",
    "! comment\ninference_address = http://\\\n    127.0.0.1:9000\n"
    "disable_token_\\\n  authorization=true",
    "inference_address=http://127.0.0.1:\\u0039000\rdisable_token_authorization=false\r"
    "disable_token_authorization=true",
    "\tinference_address\t=\thttp://127.0.0.1:9000\n disable_token_authorization=true ",
    b"\xef\xbb\xbfinference_address=http://127.0.0.1:9000\ndisable_token_authorization=true",
]


@pytest.mark.parametrize("text", JAVA_FORMS)
def test_every_syntax_of_java_is_read(tmp_path, text):
    loaded = configuration(tmp_path, text)
    assert loaded.endpoints()[0].url == "http://127.0.0.1:9000"
    assert not loaded.tokens
    effective = read_by_torchserve(loaded)
    assert effective["inference_address"] == "http://127.0.0.1:9000"
    assert effective["disable_token_authorization"] == "true"


def test_the_file_is_latin_1_unless_it_has_a_utf_8_bom(tmp_path):
    assert configuration(tmp_path, "model_store=störe").model_store.name == "störe"
    assert configuration(tmp_path, "model_store=st\\u00f6re").model_store.name == "störe"
    assert configuration(tmp_path, "\ufeffmodel_store=störe".encode()).model_store.name == "störe"
    as_java_reads_it = configuration(tmp_path, "model_store=störe".encode())
    assert as_java_reads_it.model_store.name == "stÃ¶re"
    assert "for 'störe' write st\\u00f6re" in notices(as_java_reads_it)[0]


def test_settings_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_PORT", "9123")
    monkeypatch.setenv("TS_MANAGEMENT_ADDRESS", "http://127.0.0.1:9124")
    monkeypatch.setenv("TS_ALLOWED_URLS", ".*")
    text = "inference_address=http://127.0.0.1:$$MY_PORT$$\n"
    plain = configuration(tmp_path, text)
    assert [endpoint.port for endpoint in plain.endpoints()[:2]] == [9123, 8081]
    assert "environment variables ignored: TS_ALLOWED_URLS, TS_MANAGEMENT_ADDRESS" in "\n".join(
        notices(plain)
    )
    enabled = configuration(tmp_path, text + "enable_envvars_config=true\n")
    assert [endpoint.port for endpoint in enabled.endpoints()[:2]] == [9123, 9124]
    effective = read_by_torchserve(enabled)
    assert effective["management_address"] == "http://127.0.0.1:9124"
    assert effective["allowed_urls"] == "nothing"  # unless use_env_allowed_urls is true
    with pytest.raises(UsageError, match="line 1: job_queue_size uses the environment variable NO"):
        configuration(tmp_path, "job_queue_size=$$NO$$")


@pytest.mark.parametrize(
    ("text", "notice"),
    [
        ("\njob_queue_sise=4", "line 2: job_queue_sise is unknown and has no effect; did you mean"),
        ("\n\ndebug=true\r\ndebug=false", "line 4: debug is set again; the last value counts"),
        ("debug=true ", "line 1: debug ends in a blank"),
        (b"\xef\xbb\xbfdebug=true", "begins with a byte order mark"),
        ("metrics_mode=log", "metrics_mode is log: /metrics and client.metrics() stay empty"),
        ("decode_input_request=TRUE", "decode_input_request is true"),
        ("enable_metrics_api=false", "enable_metrics_api is false"),
        ("enable_model_api=false", "enable_model_api=false is overridden"),
        ("load_models=a.mar", "load_models is ignored"),
        ("debug=false", "token_expiration_min=1440, max_request_size=20000000"),
    ],
)
def test_a_start_reports(tmp_path, text, notice):
    assert notice in "\n".join(notices(configuration(tmp_path, text)))


def test_vestals_own_file_gives_no_notice(tmp_path):
    assert notices(Configuration.load(Project(tmp_path))) == []


def test_a_metrics_file_without_vestals_metrics_is_respected_and_reported(tmp_path):
    (tmp_path / "mine.yaml").write_bytes((TORCHSERVE / "configs" / "metrics.yaml").read_bytes())
    loaded = configuration(tmp_path, "metrics_config=mine.yaml")
    assert read_by_torchserve(loaded)["metrics_config"] == str(tmp_path / "mine.yaml")
    assert "does not declare vestal_batch_size, vestal_decode_seconds" in notices(loaded)[0]


@pytest.mark.parametrize("content", ["a: [", "- 1", "", "ts_metrics: {counter: [1]}"])
def test_an_invalid_metrics_file_is_an_error(tmp_path, content):
    (tmp_path / "mine.yaml").write_text(content)
    loaded = configuration(tmp_path, "metrics_config=mine.yaml")
    with pytest.raises(
        UsageError, match=r"line 1: metrics_config is 'mine\.yaml'; expected a file"
    ):
        notices(loaded)


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
        ("inference_address=http://127.0.0.1", "expected http://HOST:PORT with a port from 1 to"),
        ("inference_address=http://127.0.0.1:99999", "a port from 1 to 65534"),
        ("inference_address=http://127.0.0.1:0", "a port from 1 to 65534"),
        ("inference_address=unix:/tmp/socket", "expected http://HOST:PORT"),
        ("inference_address=", "inference_address is ''; expected http://HOST:PORT"),
        ("grpc_inference_port=many", "grpc_inference_port is 'many'; expected a port number"),
        ("grpc_inference_port=70700", "grpc_inference_port is '70700'; expected a port number"),
        ("job_queue_size=1_000", "job_queue_size is '1_000'; expected a number from 1"),
        ("max_request_size=3000000000", "expected a number of bytes from 1 to 2147483647"),
        ("max_request_size=20 MB", "max_request_size is '20 MB'; expected a number of bytes"),
        ("token_expiration_min=soon", "expected a number of minutes above 0"),
        ("disable_token_authorization=yes", "is 'yes'; expected true or false"),
        ("metrics_mode=promtheus", "is 'promtheus'; expected prometheus, log or legacy"),
        ("model_store=a\\u0000b", "expected a path"),
        ("vmargs=-Da='b", "expected Java options with balanced quotes"),
        ("debug=\\u12g4", "is not a valid escape; expected \\u and four hex digits"),
    ],
)
def test_an_invalid_setting_is_an_error_with_its_line(tmp_path, text, message):
    def read():
        loaded = configuration(tmp_path, f"# comment\n\n{text}\n")
        return loaded.endpoints(), loaded.java_options

    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read()
    assert str(caught.value).startswith(f"{tmp_path / 'config.properties'}, line 3: ")


def test_two_addresses_on_one_port_are_an_error(tmp_path):
    loaded = configuration(tmp_path, "metrics_address=http://127.0.0.1:8080")
    with pytest.raises(UsageError, match="inference_address and metrics_address are both"):
        loaded.endpoints()


def test_a_file_in_utf_16_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="is encoded as UTF-16; save it as ASCII or UTF-8"):
        configuration(tmp_path, "debug=true".encode("utf-16"))


@pytest.mark.parametrize("port", [-1, 65533])
def test_an_invalid_port_is_an_error(tmp_path, port):
    with pytest.raises(UsageError, match=f"--port {port}: expected 0"):
        configuration(tmp_path, "").endpoints(port)


def test_a_missing_metrics_file_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"line 1: metrics_config .* no .*mine\.yaml"):
        _ = configuration(tmp_path, "metrics_config=mine.yaml").metrics_config


def test_the_url_of_a_wildcard_address_is_loopback(tmp_path):
    loaded = configuration(tmp_path, "inference_address=http://0.0.0.0:8080")
    assert loaded.endpoints()[0].url == "http://127.0.0.1:8080"


def test_vestals_metrics_include_torchserves():
    shipped = yaml.safe_load((TORCHSERVE / "configs" / "metrics.yaml").read_text())
    ours = yaml.safe_load(METRICS.read_text())
    assert ours["ts_metrics"] == shipped["ts_metrics"]
    gauges = {metric["name"]: metric for metric in ours["model_metrics"]["gauge"]}
    assert all(gauges.pop(each["name"]) == each for each in shipped["model_metrics"]["gauge"])
    assert list(gauges) == ["vestal_engine_info"]
    added = [*ours["model_metrics"]["histogram"], *ours["model_metrics"]["counter"]]
    assert {metric["name"] for metric in added} == {
        "vestal_decode_seconds",
        "vestal_forward_seconds",
        "vestal_encode_seconds",
        "vestal_batch_size",
        "vestal_failures_total",
    }
