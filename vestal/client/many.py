"""Many inputs: read as the calls go on, their results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from threading import Lock
from typing import Any

from vestal.client.answers import Answer
from vestal.client.errors import ClientError
from vestal.errors import UsageError

Progress = Callable[[int, int | None], object]
"""Called with the number of results so far and that of all inputs (None: not known)."""


class Many:
    """The inputs and results of one `predict_many`; thread-safe."""

    def __init__(self, inputs: Iterable[Any], concurrency: int, progress: Progress | None) -> None:
        if concurrency < 1:
            raise UsageError(f"concurrency is {concurrency!r}: expected 1 or more")
        if isinstance(inputs, (str, bytes, dict)):
            raise UsageError(f"inputs is one {type(inputs).__name__}: expected a list of inputs")
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        self._source = enumerate(inputs)
        self._results: dict[int, Answer | ClientError] = {}
        self._progress = progress
        self._lock = Lock()
        self._stopped = False
        self.concurrency = concurrency if self._total is None else min(concurrency, self._total)

    def take(self) -> tuple[int, Any] | None:
        """The next input and its position; None where there is none, or after `stop`."""
        with self._lock:
            return None if self._stopped else next(self._source, None)

    def put(self, position: int, result: Answer | ClientError) -> None:
        self._results[position] = result
        if self._progress is not None:
            with self._lock:
                self._progress(len(self._results), self._total)

    def stop(self) -> None:
        self._stopped = True

    def results(self) -> list[Answer | ClientError]:
        return [self._results[position] for position in range(len(self._results))]
