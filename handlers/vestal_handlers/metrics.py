"""Prometheus metrics of a handler; declared in the server's metrics configuration.

On a server that does not declare them (a bare `torchserve --start`) nothing is observed:
`get_metric` of an undeclared name raises there, and each observation is a line through the
worker's stdout, so the phases are observed once a batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes

logger = logging.getLogger(__name__)

HISTOGRAMS = ("decode_seconds", "forward_seconds", "encode_seconds", "batch_size")
COUNTER = "failures_total"


class Metrics:
    """Finds the declared ones once and observes; never raises."""

    def __init__(self, cache: Any, model: str, version: str) -> None:
        self._labels = [model, version]
        self._found: dict[str, Any] = {}
        for name in (*HISTOGRAMS, COUNTER):
            kind = MetricTypes.COUNTER if name == COUNTER else MetricTypes.HISTOGRAM
            try:
                self._found[name] = cache.get_metric(f"vestal_{name}", kind)
            except Exception as error:  # metrics never raise
                logger.info("metric vestal_%s is not declared here: %s", name, error)

    def observe(self, name: str, value: float) -> None:
        """One observation of a histogram: seconds, or requests for `batch_size`."""
        if name in self._found:
            self._found[name].add_or_update(value, self._labels)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Observes the seconds that its block takes."""
        start = time.perf_counter()
        yield
        self.observe(name, time.perf_counter() - start)

    def count_failure(self, kind: str) -> None:
        if COUNTER in self._found:
            self._found[COUNTER].add_or_update(1, [*self._labels, kind])
