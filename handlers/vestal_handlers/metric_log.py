"""Write observations to the worker's log, from which TorchServe's frontend counts them.

TorchServe prints a line for each observation before the response is sent. Here, the lines are
written together, a few times a second, in the same format, so every observation is counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes

INTERVAL = 0.25
"""Seconds from an observation until it is written."""

# What TorchServe itself prints for every batch: ts/protocol/otf_message_handler.py, ts/service.py.
_RECEIVED = "Backend received inference at: %d"
_PREDICTION_TIME = "[METRICS]PredictionTime."

logger = logging.getLogger("ts.metrics.vestal")  # beside TorchServe's, whose filters it skips


class MetricLog:
    """Collects observations; a thread writes them.

    They are also written at exit and at SIGTERM. SIGKILL, with which TorchServe removes a worker,
    loses those of the last INTERVAL; `flush` writes them before.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[Any, tuple[str, ...], float]] = deque()
        self._prediction_time = ""
        self._host = socket.gethostname()
        self._wake = threading.Event()
        # Reentrant, because a signal may interrupt a flush.
        self._lock = threading.RLock()
        threading.Thread(target=self._write_regularly, name="metrics", daemon=True).start()
        atexit.register(self.flush)
        if threading.current_thread() is threading.main_thread():
            _before_sigterm(self.flush)
        logging.getLogger().addFilter(_is_no_receipt)
        logging.getLogger("ts.metrics.caching_metric").addFilter(self._is_not_held)

    def add(self, metric: Any, value: float, labels: tuple[str, ...]) -> None:
        """Add an observation of TorchServe's `metric`, with the values of its dimensions."""
        self._pending.append((metric, labels, value))
        self._wake_up()

    def flush(self) -> None:
        """Write all observations that were added before."""
        with self._lock:
            lines: list[str] = []
            counts: dict[tuple[Any, tuple[str, ...]], float] = {}
            while self._pending:
                metric, labels, value = self._pending.popleft()
                if metric.metric_type is MetricTypes.COUNTER:
                    counts[metric, labels] = counts.get((metric, labels), 0) + value
                else:
                    lines.append(self._line(metric, value, labels))
            lines += [
                self._line(metric, total, labels) for (metric, labels), total in counts.items()
            ]
            held, self._prediction_time = self._prediction_time, ""
            lines += [held] if held else []
            if lines:
                logger.info("%s", "\n".join(lines))

    def _line(self, metric: Any, value: float, labels: tuple[str, ...]) -> str:
        """A line in the format of `ts.metrics.caching_metric.CachingMetric.emit_metrics`."""
        named = ",".join(map("{}:{}".format, metric.dimension_names, labels))
        return (
            f"[METRICS]{metric.metric_name}.{metric.unit}:{value}|#{named}|"
            f"#type:{metric.metric_type.name}|#hostname:{self._host},{int(time.time())}"
        )

    def _is_not_held(self, record: logging.LogRecord) -> bool:
        """Hold back TorchServe's gauge PredictionTime, of which only the last value counts."""
        if not str(record.msg).startswith(_PREDICTION_TIME):
            return True
        self._prediction_time = str(record.msg)
        self._wake_up()
        return False

    def _wake_up(self) -> None:
        if not self._wake.is_set():
            self._wake.set()

    def _write_regularly(self) -> None:
        while self._wake.wait():
            time.sleep(INTERVAL)
            self._wake.clear()  # first, so that later observations wake the thread again
            self.flush()


def _is_no_receipt(record: logging.LogRecord) -> bool:
    return record.msg != _RECEIVED


def _before_sigterm(flush: Callable[[], None]) -> None:
    """Flush when SIGTERM ends this process, unless the signal is handled already."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def end(number: int, frame: FrameType | None) -> None:
        flush()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
