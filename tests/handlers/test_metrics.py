"""Observations are written together, every one of them, and never fail a request."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_type_enum import MetricTypes

import vestal
from vestal_handlers.metric_log import INTERVAL, MetricLog
from vestal_handlers.metrics import HandlerMetrics

DECLARED = Path(vestal.__file__).parent / "configuration" / "metrics.yaml"

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
@pytest.mark.usefixtures("restored")
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


# A worker that observes 300 batches of 2, and fails 5 requests, and then ends in one of many ways.
WORKER = """
import logging, os, signal, sys, threading, time

logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from vestal_handlers.metrics import HandlerMetrics

cache = MetricsCacheYamlImpl(config_file_path=sys.argv[1])
cache.initialize_cache()
cache.model_name, cache.request_ids = "m", {0: "id"}
metrics = HandlerMetrics(cache, "m", "1.0")
for number in range(300):
    logging.info("Backend received inference at: %d", time.time())
    metrics.observe("batch_size", 2)
    with metrics.timed("decode_seconds"):
        time.sleep(0.001)
    if number < 5:
        metrics.count_failure("InputError")
    cache.add_time("PredictionTime", number)
logging.info("done")
if sys.argv[2] == "wait":
    time.sleep(20)
elif sys.argv[2] == "describe":
    metrics.flush()
    os.kill(os.getpid(), signal.SIGKILL)
elif sys.argv[2] == "error":
    raise RuntimeError("the end")
sys.exit(int(sys.argv[2]))
"""


def totals(lines):
    """The number and the sum of the observations of each metric."""
    found = [re.match(r"\[METRICS\]([A-Za-z_]+)\.\w+:([\d.e-]+)\|#", line) for line in lines]
    numbers: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for match in filter(None, found):
        numbers[match[1]] += 1
        sums[match[1]] += float(match[2])
    return numbers, sums


def run_worker(ending, until="done"):
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(DECLARED), ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if ending == "wait" and line.startswith(until):
                process.send_signal(signal.SIGTERM)
        return lines, process.wait()


@pytest.mark.parametrize(
    ("ending", "code"),
    [("0", 0), ("error", 1), ("wait", -signal.SIGTERM), ("describe", -signal.SIGKILL)],
)
def test_every_observation_is_written_however_the_worker_ends(ending, code):
    lines, ended = run_worker(ending)
    assert ended == code
    numbers, sums = totals(lines)
    assert (numbers["vestal_batch_size"], sums["vestal_batch_size"]) == (300, 600)
    assert numbers["vestal_decode_seconds"] == 300
    assert sums["vestal_failures_total"] == 5
    assert numbers["vestal_failures_total"] < 5  # added up
    # TorchServe's own lines: the last value of its gauge, and none for every batch.
    last = [line for line in lines if line.startswith("[METRICS]PredictionTime.")][-1]
    assert last.startswith("[METRICS]PredictionTime.Milliseconds:299|#ModelName:m,Level:Model|")
    assert numbers["PredictionTime"] < 100
    assert not [line for line in lines if line.startswith("Backend received")]


def test_a_quiet_worker_has_written_everything():
    lines, ended = run_worker("wait", until="[METRICS]PredictionTime.Milliseconds:299|")
    assert ended == -signal.SIGTERM
    assert totals(lines)[0]["vestal_batch_size"] == 300


@pytest.fixture
def restored():
    """Undo what a worker's metrics change in a process."""
    before = signal.getsignal(signal.SIGTERM)
    loggers = [logging.getLogger(name) for name in (None, "ts.metrics.caching_metric")]
    filters = [list(each.filters) for each in loggers]
    yield
    signal.signal(signal.SIGTERM, before)
    for each, kept in zip(loggers, filters, strict=True):
        each.filters[:] = kept


@pytest.mark.usefixtures("restored")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_observations_are_written_in_torchserves_format_a_few_times_a_second(caplog):
    cache = MetricsCacheYamlImpl(config_file_path=str(DECLARED))
    cache.initialize_cache()
    metric = cache.get_metric("vestal_batch_size", MetricTypes.HISTOGRAM)
    log = MetricLog()
    with caplog.at_level(logging.INFO):
        metric.add_or_update(7, ["m", "1.0"])
        (theirs,) = [r.getMessage() for r in caplog.records if "vestal_batch_size" in r.message]
        caplog.clear()
        began = time.monotonic()
        for _ in range(100):
            log.add(metric, 7, ("m", "1.0"))
            time.sleep(0.002)
        log.flush()
        intervals = (time.monotonic() - began) / INTERVAL
    written = [r.getMessage() for r in caplog.records if r.name == "ts.metrics.vestal"]
    assert len(written) <= intervals + 2
    lines = "\n".join(written).splitlines()
    assert len(lines) == 100
    without_time = {line.rpartition(",")[0] for line in lines}
    assert without_time == {theirs.rpartition(",")[0]}
