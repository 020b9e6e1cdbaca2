"""Requests, failures and times of every version, from TorchServe's metrics page and access log.

A `Scrape` has cumulative counters. `TrafficMeter` keeps the differences between two scrapes for the
last minute, as `Interval`s; a `Window` is a sequence of them.

- `ts_inference_requests_total` counts a request when it arrives, whatever becomes of it.
- `ts_inference_latency_microseconds` and `ts_queue_latency_microseconds` are sums over requests
  that a worker answered, with any status. A request that TorchServe answers itself (the handler
  raised an exception, the worker died or was too slow) is not in them.
- Both have the version `default` if the request named none; it counts for the default version.
- `vestal_*_seconds` and `vestal_batch_size` count batches, of archives by Vestal only.
- Responses with 5xx are in the access log, with their path. Responses with 4xx are no failures.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise

from prometheus_client.parser import text_string_to_metric_families

from vestal.fleet.status import Traffic

Version = tuple[str, str]
"""Name and version of a model."""
DEFAULT = "default"
"""TorchServe's label for requests that name no version."""
STEPS = ("decode", "forward", "encode")
_MICRO = 1e-6
_SUMS = {
    "ts_inference_requests": ("arrivals", 1.0),
    "ts_inference_latency_microseconds": ("latency", _MICRO),
    "ts_queue_latency_microseconds": ("queue", _MICRO),
    "vestal_batch_size_sum": ("requests", 1.0),
    "vestal_encode_seconds_count": ("batches", 1.0),
}
_HISTOGRAMS = {f"vestal_{step}_seconds": step for step in STEPS}


@dataclass
class Counters:
    """Cumulative counters of one version, or their difference; times are sums, in seconds.

    Attributes:
        arrivals: requests that TorchServe accepted.
        latency: time of the answered requests in TorchServe, with their time in the queue.
        queue: their time in the queue, in which their batch is collected, too.
        failures: responses with 5xx.
        requests: requests that the handler received.
        batches: batches that the handler finished.
        handler: time of the handler.
        steps: the handler's time in each step.
        buckets: for each step, the number of batches up to each bound in seconds.
    """

    arrivals: float = 0.0
    latency: float = 0.0
    queue: float = 0.0
    failures: float = 0.0
    requests: float = 0.0
    batches: float = 0.0
    handler: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)

    def add(self, other: Counters, sign: int = 1) -> None:
        """Add (or subtract) the other counters to these."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))
        for step, seconds in other.steps.items():
            self.steps[step] = self.steps.get(step, 0.0) + sign * seconds
        for step, bounds in other.buckets.items():
            own = self.buckets.setdefault(step, {})
            for bound, count in bounds.items():
                own[bound] = own.get(bound, 0.0) + sign * count

    def since(self, earlier: Counters | None) -> Counters:
        """Return the difference; after a restart of TorchServe, which begins at 0, these."""
        difference = Counters()
        difference.add(self)
        if earlier is not None and all(
            getattr(self, name) >= getattr(earlier, name) for name in _NUMBERS
        ):
            difference.add(earlier, -1)
        return difference


_NUMBERS = [each.name for each in fields(Counters) if each.name not in ("steps", "buckets")]


@dataclass(frozen=True)
class Interval:
    """What happened to one version in so many seconds."""

    seconds: float
    counted: Counters


@dataclass(frozen=True)
class Window:
    """The intervals of one version, oldest first."""

    intervals: tuple[Interval, ...] = ()

    @property
    def seconds(self) -> float:
        return sum(interval.seconds for interval in self.intervals)

    @property
    def arrivals(self) -> float:
        return sum(interval.counted.arrivals for interval in self.intervals)

    @property
    def failures(self) -> float:
        return sum(interval.counted.failures for interval in self.intervals)

    @property
    def total(self) -> Counters:
        total = Counters()
        for interval in self.intervals:
            total.add(interval.counted)
        return total

    def traffic(self) -> Traffic:
        """Summarize the window, for people."""
        total, seconds = self.total, self.seconds
        received = max(total.arrivals, total.requests)
        if not seconds or not received:
            return Traffic()
        answered = max(total.requests or total.arrivals - total.failures, 1.0)
        return Traffic(
            rate=total.arrivals / seconds,
            error_rate=min(total.failures / received, 1.0),
            queue=total.queue / answered,
            mean=total.latency / answered,
            p50=quantile_of_steps(total, 0.5),
            p99=quantile_of_steps(total, 0.99),
        )


def read_page(page: str) -> dict[Version, Counters]:
    """Read the counters of all versions from a metrics page of TorchServe.

    Raises:
        ValueError: it is not a Prometheus page.
    """
    found: dict[Version, Counters] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = sample.labels
            if "model_name" not in labels or "model_version" not in labels:
                continue
            key = labels["model_name"], labels["model_version"]
            counters = found.setdefault(key, Counters())
            # The parser adds _total to the names of counters, as OpenMetrics has them.
            if found_sum := _SUMS.get(sample.name.removesuffix("_total")):
                name, unit = found_sum
                setattr(counters, name, getattr(counters, name) + sample.value * unit)
            base, _, part = sample.name.rpartition("_")
            step = _HISTOGRAMS.get(base)
            if step is not None and part == "sum":
                counters.handler += sample.value
                counters.steps[step] = sample.value
            elif step is not None and part == "bucket":
                counters.buckets.setdefault(step, {})[float(labels["le"])] = sample.value
    return found


class TrafficMeter:
    """Keeps the traffic of every version for `seconds`; not thread-safe."""

    def __init__(self, seconds: float = 60.0) -> None:
        self._seconds = seconds
        self._last: dict[Version, Counters] = {}
        self._last_time: float | None = None
        self._intervals: dict[Version, deque[tuple[float, Interval]]] = {}

    def add(
        self,
        now: float,
        page: str,
        defaults: Mapping[str, str],
        failures: Iterable[tuple[str, str | None]] = (),
    ) -> None:
        """Add a scrape.

        Args:
            now: time of the scrape, from a monotonic clock, in seconds.
            page: the metrics page.
            defaults: default version by model; it gets the requests that named no version.
            failures: model and version (None: the default) of each response with 5xx since the last
                scrape, from `failed_requests.FailedRequests`.

        Raises:
            ValueError: it is not a Prometheus page.
        """
        counters = read_page(page)
        if self._last_time is not None:
            counted: dict[Version, Counters] = {}
            for key, current in counters.items():
                difference = current.since(self._last.get(key))
                counted.setdefault(_version(*key, defaults), Counters()).add(difference)
            for model, version in failures:
                key = _version(model, version or DEFAULT, defaults)
                counted.setdefault(key, Counters()).failures += 1
            for key, difference in counted.items():
                interval = Interval(now - self._last_time, difference)
                self._intervals.setdefault(key, deque()).append((now, interval))
        self._last, self._last_time = counters, now
        for key, intervals in list(self._intervals.items()):
            while intervals and intervals[0][0] <= now - self._seconds:
                intervals.popleft()
            if not intervals:
                del self._intervals[key]

    def window(self, model: str, version: str, since: float = -math.inf) -> Window:
        """Return a version's intervals that began at `since` or later."""
        return Window(
            tuple(
                interval
                for end, interval in self._intervals.get((model, version), ())
                if end - interval.seconds >= since
            )
        )


def _version(model: str, version: str, defaults: Mapping[str, str]) -> Version:
    return model, defaults.get(model, DEFAULT) if version == DEFAULT else version


def quantile_of_steps(total: Counters, q: float) -> float | None:
    """Estimate a quantile of the handler's time for a batch, in seconds; None without batches.

    It is the sum of the quantiles of the three steps, as the histograms do not tell which times
    belong to the same batch: correct if the same batches are slow in every step, else too high.
    """
    estimates = [quantile(b, q, total.steps.get(step)) for step, b in total.buckets.items()]
    known = [estimate for estimate in estimates if estimate is not None]
    return sum(known) if known else None


def quantile(buckets: Mapping[float, float], q: float, total: float | None = None) -> float | None:
    """Estimate a quantile from a histogram's cumulative buckets; None if they are empty.

    Linear interpolation in the bucket, as Prometheus' `histogram_quantile`: a quantile above the
    highest finite bound is that bound. TorchServe's lowest bound, 5 ms, is far above the times of a
    small model, so the lowest bucket ends at twice its mean if that is less.

    Args:
        total: sum of all values, for the mean of the lowest bucket.
    """
    bounds = sorted(buckets)
    count = buckets[bounds[-1]] if bounds else 0.0
    if not count:
        return None
    rank = q * count
    below, start = 0.0, 0.0
    for bound in bounds:
        upto = buckets[bound]
        if upto >= rank and upto > below:
            if math.isinf(bound):
                return start
            end = bound
            if start == 0.0 and total is not None:
                end = min(bound, 2 * _most_in_lowest(buckets, total) / upto)
            return start + (end - start) * (rank - below) / (upto - below)
        below, start = upto, bound
    return start


def _most_in_lowest(buckets: Mapping[float, float], total: float) -> float:
    """Return the highest possible sum of the values in the lowest bucket."""
    bounds = sorted(buckets)
    for lower, bound in pairwise(bounds):
        total -= (buckets[bound] - buckets[lower]) * lower
    return max(total, 0.0)
