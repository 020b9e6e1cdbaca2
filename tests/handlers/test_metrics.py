"""Metrics that are declared with other dimensions are logged, and never fail a request."""

from __future__ import annotations

import logging

import pytest
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from vestal_handlers.metrics import HandlerMetrics

METRICS = """
dimensions: []
ts_metrics: {}
model_metrics:
  histogram:
    - {name: vestal_batch_size, unit: count, dimensions: [model_name]}
    - {name: vestal_decode_seconds, unit: s, dimensions: [model_name, model_version]}
    - {name: vestal_encode_seconds, unit: s, dimensions: null}
  counter:
    - {name: vestal_failures_total, unit: count, dimensions: [a, b, c, d]}
"""


# TorchServe leaves the file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_metrics_that_cannot_be_observed_are_logged_once(tmp_path, caplog):
    config = tmp_path / "metrics.yaml"
    config.write_text(METRICS)
    cache = MetricsCacheYamlImpl(config_file_path=str(config))
    cache.initialize_cache()
    metrics = HandlerMetrics(cache, "m", "1.0")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            metrics.observe("batch_size", 3)
            metrics.observe("decode_seconds", float("nan"))
            metrics.observe("forward_seconds", 1.0)
            metrics.observe("encode_seconds", 1.0)
            metrics.count_failure("InputError")
    ours = [r for r in caplog.records if r.name == "vestal_handlers.metrics"]
    errors = [record.getMessage() for record in ours if record.levelno == logging.ERROR]
    assert [error.split()[1] for error in errors] == [
        "vestal_batch_size",
        "vestal_decode_seconds",
        "vestal_encode_seconds",
        "vestal_failures_total",
    ]
