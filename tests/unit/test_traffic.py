"""Traffic of each version, from pages and logs as TorchServe 0.12 writes them."""

from __future__ import annotations

import pytest

from vestal.fleet.failed_requests import FailedRequests, failed_version
from vestal.fleet.traffic import Counters, Interval, TrafficMeter, Window, quantile, read_page


def page(*versions: tuple[str, str, float, float, float], batches: float = 0, slow: float = 0):
    """Write TorchServe's page: model, version, requests, latency and queue in seconds.

    With `batches`, a Vestal handler's histograms of `m` 1.0: `slow` of them took 0.2 s, the others
    4 ms, in each step.
    """
    lines = []
    for name, position, scale in (
        ("ts_inference_requests_total", 0, 1),
        ("ts_inference_latency_microseconds", 1, 1e6),
        ("ts_queue_latency_microseconds", 2, 1e6),
    ):
        lines += [f"# HELP {name} help", f"# TYPE {name} counter"]
        for model, version, *values in versions:
            labels = f'model_name="{model}",model_version="{version}",hostname="vm",'
            lines.append(f"{name}{{{labels}}} {values[position] * scale}")
    labels = 'model_name="m",model_version="1.0",Hostname="vm",'
    for step in ("decode", "forward", "encode") if batches else ():
        name = f"vestal_{step}_seconds"
        lines += [f"# TYPE {name} histogram"]
        for bound, count in (("0.005", batches - slow), ("0.1", batches - slow)):
            lines.append(f'{name}_bucket{{{labels}le="{bound}",}} {count}')
        for bound in ("0.25", "+Inf"):
            lines.append(f'{name}_bucket{{{labels}le="{bound}",}} {batches}')
        lines.append(f"{name}_count{{{labels}}} {batches}")
        lines.append(f"{name}_sum{{{labels}}} {(batches - slow) * 0.004 + slow * 0.2}")
    if batches:
        lines += ["# TYPE vestal_batch_size histogram"]
        lines += [f'vestal_batch_size_bucket{{{labels}le="+Inf",}} {batches}']
        lines += [f"vestal_batch_size_count{{{labels}}} {batches}"]
        lines += [f"vestal_batch_size_sum{{{labels}}} {batches * 2}"]
    return "\n".join(lines) + "\n"


def test_requests_without_a_version_count_for_the_default_version():
    meter = TrafficMeter()
    meter.add(0, page(("m", "default", 5, 0, 0), ("m", "1.0", 1, 0, 0)), {"m": "1.0"})
    meter.add(1, page(("m", "default", 8, 0, 0), ("m", "1.0", 2, 0, 0)), {"m": "1.0"})
    meter.add(2, page(("m", "default", 9, 0, 0), ("m", "1.0", 2, 0, 0)), {"m": "2.0"})
    assert meter.window("m", "1.0").arrivals == 4
    assert meter.window("m", "2.0").arrivals == 1


def test_a_window_can_begin_at_the_switch():
    meter = TrafficMeter()
    for second in range(10):
        meter.add(second, page(("m", "1.0", 10 * second, 0, 0)), {})
    assert meter.window("m", "1.0").arrivals == 90
    assert meter.window("m", "1.0", since=6).arrivals == 30
    assert meter.window("m", "1.0", since=6.5).arrivals == 20


def test_only_the_last_minute_is_kept():
    meter = TrafficMeter(60)
    for second in range(200):
        meter.add(second, page(("m", "1.0", 10 * second, 0, 0)), {})
    window = meter.window("m", "1.0")
    assert (window.seconds, window.arrivals) == (60, 600)
    assert window.traffic().rate == 10


def test_a_version_that_was_removed_is_forgotten():
    meter = TrafficMeter(60)
    meter.add(0, page(("m", "1.0", 1, 0, 0)), {})
    for second in range(1, 100):
        meter.add(second, page(), {})
    assert meter.window("m", "1.0") == Window()


def test_counters_that_begin_again_after_a_restart_are_not_negative():
    meter = TrafficMeter()
    meter.add(0, page(("m", "1.0", 1000, 900, 50), batches=100), {})
    meter.add(1, page(("m", "1.0", 3, 0.3, 0.1), batches=1), {})
    meter.add(2, page(("m", "1.0", 5, 0.5, 0.2), batches=2), {})
    total = meter.window("m", "1.0").total
    assert (total.arrivals, total.requests, total.batches) == (5, 4, 2)
    assert total.latency == pytest.approx(0.5)


def test_the_traffic_of_a_foreign_archive_has_no_quantiles():
    meter = TrafficMeter()
    meter.add(0, page(("m", "1.0", 0, 0, 0)), {})
    meter.add(2, page(("m", "1.0", 10, 1.0, 0.5)), {}, [("m", "1.0"), ("m", "1.0")])
    traffic = meter.window("m", "1.0").traffic()
    assert traffic.rate == 5
    assert traffic.error_rate == 0.2
    assert traffic.mean == pytest.approx(1.0 / 8)  # of the answered requests
    assert traffic.queue == pytest.approx(0.5 / 8)
    assert (traffic.p50, traffic.p99) == (None, None)


def test_the_quantiles_of_a_vestal_archive_add_its_three_steps():
    meter = TrafficMeter()
    meter.add(0, page(), {})
    meter.add(1, page(("m", "1.0", 200, 20, 10), batches=100, slow=10), {})
    traffic = meter.window("m", "1.0").traffic()
    assert traffic.p50 == pytest.approx(3 * 0.005 * 50 / 90)  # the mean is 4 ms
    assert traffic.p99 == pytest.approx(3 * (0.1 + 0.15 * 0.9))


def test_failures_that_name_no_version_count_for_the_default_version():
    meter = TrafficMeter()
    meter.add(0, page(), {})
    failures = [("m", None), ("m", "1.0"), ("other", None)]
    meter.add(1, page(("m", "default", 4, 0, 0)), {"m": "2.0"}, failures)
    assert meter.window("m", "2.0").failures == 1
    assert meter.window("m", "1.0").failures == 1


def test_no_requests_are_no_traffic():
    assert Window().traffic().rate == 0
    assert Window((Interval(1, Counters()),)).traffic().mean is None


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ({}, 0.5, None),
        ({0.1: 0, float("inf"): 0}, 0.5, None),
        ({0.1: 10, float("inf"): 10}, 0.5, 0.05),
        ({0.1: 0, 0.2: 10, float("inf"): 10}, 0.5, 0.15),
        ({0.1: 5, 0.2: 10, float("inf"): 20}, 0.99, 0.2),  # above the highest bound
        ({0.1: 10, 0.2: 10, float("inf"): 10}, 1.0, 0.1),
    ],
)
def test_quantiles_are_interpolated_as_prometheus_does(buckets, q, expected):
    assert quantile(buckets, q) == (None if expected is None else pytest.approx(expected))


def test_the_quantiles_of_a_fast_model_are_below_the_lowest_bound():
    buckets = {0.005: 99.0, 0.01: 100.0, float("inf"): 100.0}
    # 99 values with a mean of 0.5 ms, and one from 5 to 10 ms.
    assert quantile(buckets, 0.5, 99 * 0.0005 + 0.005) == pytest.approx(0.001 * 50 / 99)
    assert quantile(buckets, 1.0, 99 * 0.0005 + 0.005) == pytest.approx(0.01)
    assert quantile(buckets, 0.5) == pytest.approx(0.005 * 50 / 99)


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        ("POST /predictions/m HTTP/1.1", ("m", None)),
        ("POST /predictions/m/1.0?a=b HTTP/1.1", ("m", "1.0")),
        ("POST /explanations/m/1.0 HTTP/1.1", ("m", "1.0")),
        ("POST /v2/models/m/infer HTTP/1.1", ("m", None)),
        ("POST /v1/models/m:predict?x=1 HTTP/1.1", ("m", None)),
        ("PUT /predictions/a%2Db HTTP/1.0", ("a-b", None)),
        ("GET /models/m?customized=true HTTP/1.1", None),  # not a request for a prediction
        ("GET /ping HTTP/1.1", None),
    ],
)
def test_a_failure_is_found_in_each_of_the_apis(request_line, expected):
    line = f'2026-11-26T14:44:23,194 - /127.0.0.1:56602 "{request_line}" 503 65'
    assert failed_version(line) == expected
    assert failed_version(line.replace(" 503 ", " 400 ")) is None


def failure(number: int) -> str:
    return f'2026-11-26T14:44:23,194 - /127.0.0.1:1 "POST /predictions/m{number} HTTP/1.1" 500 1\n'


def test_failures_are_read_once_and_only_in_complete_lines(tmp_path):
    log = tmp_path / "access_log.log"
    log.write_text(failure(0))
    failed = FailedRequests(log)
    assert failed.read() == []  # from before
    with log.open("a") as stream:
        stream.write(failure(1) + failure(2)[:30])
        stream.flush()
        assert failed.read() == [("m1", None)]
        stream.write(failure(2)[30:])
    assert failed.read() == [("m2", None)]
    assert failed.read() == []
    failed.close()


def test_failures_are_followed_into_the_next_file(tmp_path):
    log = tmp_path / "access_log.log"
    failed = FailedRequests(log)  # TorchServe has not written one yet
    assert failed.read() == []
    log.write_text(failure(1))
    assert failed.read() == [("m1", None)]
    with log.open("a") as stream:
        stream.write(failure(2))
    log.rename(tmp_path / "access_log.1.log")
    assert failed.read() == [("m2", None)]
    log.write_text(failure(3))
    assert failed.read() == [("m3", None)]
    failed.close()


def test_a_page_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="html"):
        read_page('{"html": 1}')
