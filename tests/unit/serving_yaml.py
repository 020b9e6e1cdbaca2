"""A serving.yaml with every key of a model, and the errors of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vestal.errors import UsageError
from vestal.fleet.serving_file import load
from vestal.fleet.serving_schema import ModelSection

FULL = """
# The models of the shop.
models:
  mnist:
    version: "2.0"
    archive: mnist-2.0.mar
    workers: {min: 1, max: 3}
    also:
      - "1.0"
      - {version: "1.1", workers: 2}
    probe:
      - input: samples/7.png
        expect: {label: "7", probability: 0.98, when: 2026-01-31, time: 10:30, none: null}
      - {input: 8.bin, content_type: application/octet-stream}
    keep_previous: 10m
    ready_timeout: 1.5m
    settle_time: 0
    max_error_rate: "0.5%"
    max_latency_ratio: 1.5
    memory_limit: 2GB
    required: false
  gpt2: {version: "1.10"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "serving.yaml"


@pytest.fixture
def refuse(file: Path) -> Callable[[str | bytes], list[str]]:
    """Return the lines of the error, without the path of the file."""

    def check(text: str | bytes) -> list[str]:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UsageError) as error:
            load(file)
        return str(error.value).replace(str(file), "serving.yaml").splitlines()

    return check


def model(file: Path, keys: str) -> ModelSection:
    file.write_text(f'models: {{m: {{version: "1.0", {keys}}}}}')
    return load(file).models["m"]
