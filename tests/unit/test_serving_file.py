"""serving.yaml: what is valid and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from serving_yaml import FULL, model
from serving_yaml import file as file

from vestal.fleet.serving_file import load
from vestal.fleet.serving_schema import SECTIONS, ModelSection, Section, ServingSection

ALL_SECTIONS: list[type[Section]] = [ServingSection, ModelSection, *SECTIONS.values()]


def test_every_key_is_read(file: Path) -> None:
    file.write_text(FULL)
    mnist, gpt2 = load(file).models.values()
    assert (mnist.version, mnist.archive, gpt2.version) == ("2.0", "mnist-2.0.mar", "1.10")
    assert mnist.workers is not None
    assert (mnist.workers.min, mnist.workers.max) == (1, 3)
    assert [each.version for each in mnist.also] == ["1.0", "1.1"]
    assert mnist.also[1].workers is not None
    assert (mnist.also[1].workers.min, mnist.also[1].workers.max) == (2, 2)
    assert [each.input for each in mnist.probe] == ["samples/7.png", "8.bin"]
    assert mnist.probe[0].expect == {
        "label": "7",
        "probability": 0.98,
        "when": "2026-01-31",
        "time": "10:30",
        "none": None,
    }
    assert mnist.probe[1].content_type == "application/octet-stream"
    assert (mnist.keep_previous, mnist.ready_timeout, mnist.settle_time) == (600, 90, 0)
    assert (mnist.max_error_rate, mnist.max_latency_ratio) == (0.005, 1.5)
    assert (mnist.memory_limit, mnist.required) == (2_000_000_000, False)
    assert (gpt2.keep_previous, gpt2.required, gpt2.workers, gpt2.also) == (0, True, None, ())
    assert (gpt2.canary, gpt2.shadow, load(file).gateway) == (None, None, None)


def test_a_canary_a_shadow_and_the_gateway_are_read(file: Path) -> None:
    file.write_text(
        """models:
  mnist:
    version: "2.0"
    canary: {version: "2.1", weight: 0.5%, sticky: {cookie: user}, workers: 2}
    shadow: {version: "2.2"}
gateway:
  address: 0.0.0.0
  port: 443
  tls: {certificate: cert.pem, key: key.pem}
  api_keys: keys.yaml
  max_body: 10MB
  rate_limit: 50
  header_timeout: 5s
"""
    )
    mnist, gateway = load(file).models["mnist"], load(file).gateway
    assert mnist.canary is not None
    assert mnist.canary.sticky is not None
    assert (mnist.canary.version, mnist.canary.weight) == ("2.1", 0.5)
    assert (mnist.canary.sticky.header, mnist.canary.sticky.cookie) == (None, "user")
    assert mnist.shadow is not None
    assert (mnist.shadow.version, mnist.shadow.sample) == ("2.2", 100)
    assert gateway is not None
    assert gateway.tls is not None
    assert (gateway.address, gateway.port, gateway.tls.key) == ("0.0.0.0", 443, "key.pem")
    assert (gateway.api_keys, gateway.max_body, gateway.rate_limit) == ("keys.yaml", 10**7, 50)
    assert (gateway.header_timeout, gateway.body_timeout, gateway.response_timeout) == (5, 30, 120)


def test_anybody_may_call_an_open_gateway_only_if_the_file_says_so(file: Path) -> None:
    file.write_text('models: {}\ngateway: {address: "::", anonymous: true}')
    gateway = load(file).gateway
    assert gateway is not None
    assert gateway.anonymous


@pytest.mark.parametrize(
    ("keys", "name", "value"),
    [
        ("keep_previous: forever", "keep_previous", None),
        ("keep_previous: 0", "keep_previous", 0),
        ("keep_previous: 90", "keep_previous", 90),
        ("settle_time: 250ms", "settle_time", 0.25),
        ("settle_time: 2 h", "settle_time", 7200),
        ("settle_time: 1d", "settle_time", 86400),
        ("max_error_rate: 0", "max_error_rate", 0),
        ("max_error_rate: 100%", "max_error_rate", 1),
        ("memory_limit: 512MiB", "memory_limit", 512 << 20),
        ("memory_limit: 1.5 Gi", "memory_limit", 3 << 29),
        ("memory_limit: 640M", "memory_limit", 640_000_000),
    ],
)
def test_values_may_have_units(file: Path, keys: str, name: str, value: Any) -> None:
    assert getattr(model(file, keys), name) == pytest.approx(value)


def test_a_single_probe_needs_no_list(file: Path) -> None:
    assert [each.input for each in model(file, "probe: {input: a.png}").probe] == ["a.png"]


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("\n#", "\ufeff#")])
def test_line_ends_and_byte_order_marks_of_windows_are_accepted(
    file: Path, change: tuple[str, str]
) -> None:
    file.write_bytes(FULL.replace(*change).encode())
    assert set(load(file).models) == {"mnist", "gpt2"}


def test_no_model_may_be_desired(file: Path) -> None:
    file.write_text("models: {}")
    assert load(file).models == {}


def test_the_example_in_the_documentation_has_every_key() -> None:
    example = load(Path(__file__).parents[2] / "docs/examples/serving.yaml")
    used = {key for keys in example.tree.lines for key in keys if isinstance(key, str)}
    for section in ALL_SECTIONS:
        assert set(section.model_fields) <= used


def test_every_key_is_described() -> None:
    for section in ALL_SECTIONS:
        for name, key in section.model_fields.items():
            assert key.description, name
            assert key.description.endswith("."), name


def test_the_digest_tells_whether_the_file_has_changed(file: Path) -> None:
    file.write_text(FULL)
    first = load(file).sha256
    assert load(file).sha256 == first
    file.write_text(FULL.replace("10m", "11m"))
    assert load(file).sha256 != first
