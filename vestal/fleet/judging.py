"""The traffic of all versions, and the judgement of new default versions by it. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from vestal.client import Client
from vestal.fleet.desired import ModelTarget
from vestal.fleet.failed_requests import FailedRequests
from vestal.fleet.observing import CALL_SECONDS
from vestal.fleet.settling import Verdict, judge
from vestal.fleet.status import Traffic
from vestal.fleet.steps import Settle
from vestal.fleet.traffic import TrafficMeter, Window
from vestal.server.logs import Logs


class TrafficJudge:
    """Reads TorchServe's metrics, and remembers the traffic before each swap."""

    def __init__(self, client: Client, logs: Logs) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._meter = TrafficMeter()
        self._failures = FailedRequests(logs.folder / "access_log.log")
        self._before: dict[str, tuple[str, Window]] = {}
        self._switched: dict[str, float] = {}

    def scrape(self, defaults: Mapping[str, str]) -> None:
        """Read the metrics page. Raises ClientError, OSError, ValueError."""
        page = self._client.metrics_text(timeout=CALL_SECONDS)
        with self._lock:
            self._meter.add(time.monotonic(), page, defaults, self._failures.read())

    def traffic(self, model: str, version: str) -> Traffic:
        """Summarize the last minute of a version."""
        return self.window(model, version).traffic()

    def window(self, model: str, version: str) -> Window:
        """Return the last minute of a version."""
        with self._lock:
            return self._meter.window(model, version)

    def begin(self, model: str, old: str | None) -> None:
        """Record the old version's traffic, before the new one's workers take CPU time."""
        if old is not None:
            self._before[model] = old, self.window(model, old)

    def switched(self, model: str) -> None:
        """Record that the new version is the default from now on."""
        self._switched[model] = time.monotonic()

    def verdict(self, step: Settle, target: ModelTarget) -> Verdict:
        """Judge the new default version of a model."""
        since = self._switched.setdefault(step.model, time.monotonic())
        old, before = self._before.get(step.model, (None, None))
        with self._lock:
            new = self._meter.window(step.model, step.version, since)
        baseline = before if old == step.previous else None
        return judge(new, baseline, target.swap, time.monotonic() - since)

    def close(self) -> None:
        with self._lock:
            self._failures.close()
