"""The Prometheus page as numbers."""

from __future__ import annotations

import sys

import pytest
from client_both import both
from client_wire import HTTPServer, http

from vestal import Client, ServerFailed, UsageError
from vestal.client.metrics import Metrics, Sample

PAGE = """\
# HELP ts_inference_requests_total Torchserve prometheus counter metric with unit: Count
# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="mnist",model_version="1.0",hostname="h",} 7.0
ts_inference_requests_total{model_name="mnist",model_version="2.0",hostname="h",} 5.0
ts_inference_requests_total{model_name="gpt2",model_version="1.0",hostname="h",} 1.0
# HELP QueueTime Torchserve prometheus gauge metric with unit: Milliseconds
# TYPE QueueTime gauge
QueueTime{Level="Host",Hostname="h",} 1.5
"""


@both
def test_the_page_is_parsed(kind: type[Client]) -> None:
    page = http(200, PAGE.encode(), content_type="text/plain")
    with HTTPServer(lambda _: page) as server, kind(metrics=server.url) as client:
        metrics = client.metrics()
        assert client.metrics_text() == PAGE
    assert len(metrics) == len(list(metrics)) == 4
    assert metrics.total("ts_inference_requests_total") == 13
    assert metrics.total("ts_inference_requests_total", model_name="mnist") == 12
    assert metrics.find("QueueTime") == (
        Sample("QueueTime", {"Level": "Host", "Hostname": "h"}, 1.5),
    )
    assert metrics.find("nothing") == ()
    assert metrics.total("nothing") == 0


def test_without_the_parser_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        Client(metrics="http://127.0.0.1:1") as client,
        pytest.raises(UsageError, match=r"vestal\[metrics\]"),
    ):
        client.metrics()


def test_labels_may_have_any_name() -> None:
    metrics = Metrics.parse('up{name="a",self="b"} 1\nup{name="c"} 2\n')
    assert metrics.total("up", name="a", self="b") == 1


@pytest.mark.parametrize("page", ["<html><body>hello</body></html>", '{"models": []}', "a{b 1"])
def test_a_page_of_another_service_is_no_metrics_page(page: str) -> None:
    with pytest.raises(ServerFailed, match=r"usually port 8082"):
        Metrics.parse(page)


def test_an_empty_page_is_no_samples() -> None:
    assert len(Metrics.parse("\n")) == 0
