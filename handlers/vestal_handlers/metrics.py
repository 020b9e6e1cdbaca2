"""Prometheus metrics of a handler, declared in the server's metrics configuration.

A server that does not declare them (a bare `torchserve --start`) observes nothing, as `get_metric`
raises for an undeclared name. The steps are observed once per batch.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes

from vestal_handlers.metric_log import MetricLog

logger = logging.getLogger(__name__)

HISTOGRAMS = ("decode_seconds", "forward_seconds", "encode_seconds", "batch_size")
COUNTER = "failures_total"
GAUGE = "engine_info"


class HandlerMetrics:
    """Observes the declared metrics; never raises.

    A metric that cannot be observed, because it is declared with other dimensions, is logged once.
    Observations are written a few times a second, and at once by `flush`.
    """

    def __init__(self, cache: Any, model: str, version: str) -> None:
        self._labels = (model, version)
        self._found: dict[str, Any] = {}
        self._reported: set[str] = set()
        kinds = {COUNTER: MetricTypes.COUNTER, GAUGE: MetricTypes.GAUGE}
        for name in (*HISTOGRAMS, *kinds):
            kind = kinds.get(name, MetricTypes.HISTOGRAM)
            try:
                self._found[name] = cache.get_metric(f"vestal_{name}", kind)
            except Exception as error:  # metrics never raise
                logger.info("metric vestal_%s is not declared here: %s", name, error)
        self._log = MetricLog() if self._found else None

    def observe(self, name: str, value: float) -> None:
        """Observe a value of a histogram: seconds, or requests for `batch_size`."""
        self._add(name, value, self._labels)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Observe the seconds that the block takes."""
        start = time.perf_counter()
        yield
        self.observe(name, time.perf_counter() - start)

    def count_failure(self, kind: str) -> None:
        """Count a failed request; `kind` is the type of its error."""
        self._add(COUNTER, 1, (*self._labels, kind))

    def set_engine(self, engine: Any) -> None:
        """Name the engine and the precision that this worker computes with."""
        describe = getattr(engine, "describe", dict)  # a task may load anything
        found: dict[str, Any] = describe()
        names = (str(found.get("name", "custom")), str(found.get("precision", "unknown")))
        self._add(GAUGE, 1, (*self._labels, *names))

    def flush(self) -> None:
        """Write the observations that are not written yet."""
        if self._log is not None:
            self._log.flush()

    def _add(self, name: str, value: float, labels: tuple[str, ...]) -> None:
        if self._log is None or name not in self._found:
            return
        try:
            if not math.isfinite(value):
                raise ValueError(f"{value} is not finite")
            metric = self._found[name]
            # Otherwise TorchServe would log an error for every observation.
            names = getattr(metric, "dimension_names", labels)
            if len(names) != len(labels):
                raise ValueError(f"its dimensions are {', '.join(names)}")
            self._log.add(metric, value, labels)
        except Exception as error:  # metrics never raise
            if name not in self._reported:
                self._reported.add(name)
                logger.error(
                    "metric vestal_%s cannot be observed: %s. Declare it in metrics_config with "
                    "the dimensions that vestal/configuration/metrics.yaml gives it.",
                    name,
                    error,
                )
