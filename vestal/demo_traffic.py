"""Callers in the background, for the demo's change of versions."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vestal.client import Client, ClientError
from vestal.errors import VestalError


class Traffic:
    """Four concurrent callers in the background; the outcome of every request is counted."""

    def __init__(self, client: Client, model: str, files: Sequence[Path]) -> None:
        self._client, self._model, self._files = client, model, files
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self.sent = 0
        self.answered: Counter[str | None] = Counter()
        self.failed: Counter[str] = Counter()

    def __enter__(self) -> Traffic:
        self._running = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.shutdown()
        self._running.result()

    def _inputs(self) -> Iterator[Path]:
        for file in itertools.cycle(self._files):
            if self._stop.is_set():
                return
            self.sent += 1
            yield file

    def _run(self) -> None:
        for outcome in self._client.iter_predictions(
            self._model, self._inputs(), concurrency=4, timeout=20
        ):
            if isinstance(outcome, ClientError):
                self.failed[type(outcome).__name__] += 1
            else:
                self.answered[outcome.version] += 1

    def wait_for(self, version: str, requests: int, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        target = self.answered[version] + requests
        while self.answered[version] < target:
            if time.monotonic() > deadline:
                raise VestalError(
                    f"version {version} did not answer {requests} requests in {seconds:g} s"
                )
            time.sleep(0.02)
