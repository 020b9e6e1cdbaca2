"""The server's Prometheus metrics."""

from __future__ import annotations

import re
import sys

import pytest
from client_both import both
from client_wire import HTTPServer, http

from vestal import Client, ClientError, ServerFailed, UnknownMetric, UsageError
from vestal.client.metrics import MetricSample, ServerMetrics

PAGE = """\
# HELP ts_inference_requests_total Torchserve prometheus counter metric with unit: Count
# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="mnist",model_version="1.0",hostname="h",} 7.0
ts_inference_requests_total{model_name="mnist",model_version="2.0",hostname="h",} 5.0
ts_inference_requests_total{model_name="gpt2",model_version="1.0",hostname="h",} 1.0
# HELP QueueTime Torchserve prometheus gauge metric with unit: Milliseconds
# TYPE QueueTime gauge
QueueTime{Level="Host",Hostname="h",} 1.5
# HELP Requests2XX Torchserve prometheus counter metric with unit: Count
# TYPE Requests2XX counter
Requests2XX{Level="Host",Hostname="h",} 9.0
# HELP ts_queue_latency_microseconds Torchserve prometheus counter metric with unit: Microseconds
# TYPE ts_queue_latency_microseconds counter
# HELP vestal_batch_size Torchserve prometheus histogram metric with unit: count
# TYPE vestal_batch_size histogram
# HELP mine_total Torchserve prometheus counter metric with unit: count
# TYPE mine_total counter
"""


@both
def test_the_page_is_parsed(kind: type[Client]) -> None:
    page = http(200, PAGE.encode(), content_type="text/plain")
    with HTTPServer(lambda _: page) as server, kind(metrics=server.url) as client:
        metrics = client.metrics()
        assert client.metrics_text() == PAGE
    assert len(metrics) == len(list(metrics)) == 5
    assert metrics.total("ts_inference_requests_total") == 13
    assert metrics.total("ts_inference_requests_total", model_name="mnist") == 12
    assert metrics.find("QueueTime") == (
        MetricSample("QueueTime", {"Level": "Host", "hostname": "h"}, 1.5),
    )
    assert metrics.total("Requests2XX") == metrics.total("Requests2XX_total") == 9


def test_a_metric_without_samples_yet_is_zero() -> None:
    metrics = ServerMetrics.parse(PAGE)
    assert metrics.total("ts_queue_latency_microseconds", model_name="mnist") == 0
    assert metrics.total("vestal_batch_size_sum", model_version="1.0") == 0
    assert metrics.total("mine_total", whatever="x") == 0  # its labels are not known yet
    assert metrics.total("ts_inference_requests_total", model_name="not called yet") == 0


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("ts_inference_request_total", {}, "Did you mean ts_inference_requests_total"),
        ("inference", {}, "Did you mean ts_inference_requests"),
        ("zzz", {}, "The page has QueueTime, Requests2XX"),
        ("vestal_batch_size", {}, "Use vestal_batch_size_count, vestal_batch_size_sum"),
        ("ts_inference_requests_total", {"model": "mnist"}, "label 'model'. Did you mean model"),
        ("QueueTime", {"x": "y"}, "label 'x'. Its labels are Level, hostname"),
        ("vestal_batch_size_sum", {"version": "1.0"}, "Did you mean model_version"),
    ],
)
def test_an_unknown_metric_or_label_is_an_error(
    name: str, labels: dict[str, str], message: str
) -> None:
    metrics = ServerMetrics.parse(PAGE)
    for read in (metrics.total, metrics.find):
        with pytest.raises(UnknownMetric, match=re.escape(message)) as caught:
            read(name, **labels)
        assert isinstance(caught.value, ClientError)


def test_an_empty_page_names_the_setting() -> None:
    with pytest.raises(UnknownMetric, match="metrics_mode=prometheus"):
        ServerMetrics.parse("\n").total("ts_inference_requests_total")


def test_the_label_of_the_host_has_one_name() -> None:
    metrics = ServerMetrics.parse('up{Hostname="a"} 1\nup{hostname="a"} 2\n')
    assert metrics.total("up", hostname="a") == metrics.total("up", Hostname="a") == 3


def test_without_the_parser_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        Client(metrics="http://127.0.0.1:1") as client,
        pytest.raises(UsageError, match=r"vestal\[metrics\]"),
    ):
        client.metrics()


def test_labels_may_have_any_name() -> None:
    metrics = ServerMetrics.parse('up{name="a",self="b"} 1\nup{name="c"} 2\n')
    assert metrics.total("up", name="a", self="b") == 1


@pytest.mark.parametrize("page", ["<html><body>hello</body></html>", '{"models": []}', "a{b 1"])
def test_a_page_of_another_service_is_rejected(page: str) -> None:
    with pytest.raises(ServerFailed, match=r"usually port 8082"):
        ServerMetrics.parse(page)


def test_an_empty_page_has_no_samples() -> None:
    assert len(ServerMetrics.parse("\n")) == 0
